"""Names of models, as Ollama reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switcher.domain.model_names import NO_NAME, ModelName
from tests.contract.spellings import INVALID, NEWER_SPELLINGS, SAME, SPELLINGS

PARTS = st.from_regex(r"\A[a-zA-Z0-9_][a-zA-Z0-9_-]{0,9}\Z")


@pytest.mark.fact(20)
@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("mid-a", "mid-a:latest", "mid-a"),
        ("mid-a:latest", "mid-a:latest", "mid-a"),
        ("qwen2.5:14b", "qwen2.5:14b", "qwen2.5:14b"),
        ("library/mid-a", "mid-a:latest", "mid-a"),
        ("registry.ollama.ai/library/mid-a:1b", "mid-a:1b", "mid-a:1b"),
        ("registry.ollama.ai/anna/mid-a", "anna/mid-a:latest", "anna/mid-a"),
        ("anna/mid-a", "anna/mid-a:latest", "anna/mid-a"),
        ("hf.co/anna/mid-a:Q4_K_M", "hf.co/anna/mid-a:Q4_K_M", "hf.co/anna/mid-a:Q4_K_M"),
        ("hf.co/library/mid-a", "hf.co/library/mid-a:latest", "hf.co/library/mid-a"),
        ("tower:5000/lib/mid-a", "tower:5000/lib/mid-a:latest", "tower:5000/lib/mid-a"),
    ],
)
def test_a_name_has_a_full_and_a_short_spelling(text: str, full: str, short: str) -> None:
    name = ModelName.parse(text)
    assert (name.full, name.short, str(name)) == (full, short, short)
    assert name.is_valid


@pytest.mark.fact(20)
@pytest.mark.parametrize(
    "text",
    [
        "Mid-A",
        "mid-a:LATEST",
        "LIBRARY/mid-a",
        "Registry.Ollama.AI/library/mid-a",
        "https://registry.ollama.ai/library/mid-a",
    ],
)
def test_spellings_of_one_name_are_equal(text: str) -> None:
    assert ModelName.parse(text) == ModelName.parse("mid-a")
    assert {ModelName.parse(text), ModelName.parse("mid-a")} == {ModelName.parse("mid-a")}


@pytest.mark.fact(20)
@pytest.mark.parametrize(("on_disk", "spelling", "meaning"), SPELLINGS + NEWER_SPELLINGS)
def test_a_request_means_the_model_that_a_server_finds(
    on_disk: str, spelling: str, meaning: str
) -> None:
    """The contract suite asks servers the same."""
    name = ModelName.of_request(spelling)
    assert (name == ModelName.parse(on_disk)) is (meaning == SAME)
    assert name.is_valid is (meaning != INVALID)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("gpt-oss:120b-cloud", "gpt-oss:120b-cloud"),
        ("gpt-oss:120b:cloud", "gpt-oss:120b-cloud"),
        ("gpt-oss:cloud", "gpt-oss:cloud"),
        ("GPT-OSS:120B-CLOUD", "gpt-oss:120b-cloud"),
    ],
)
def test_the_place_of_a_cloud_model_is_part_of_its_tag(text: str, listed: str) -> None:
    name = ModelName.of_request(text)
    assert name == ModelName.parse(listed)
    assert name.is_cloud


@pytest.mark.parametrize("text", ["mid-a", "cloud", "cloud:7b", "my-cloud/mid-a", "mid-a:cloudy"])
def test_a_name_with_cloud_elsewhere_is_of_a_local_model(text: str) -> None:
    assert not ModelName.of_request(text).is_cloud


@pytest.mark.parametrize(
    "text", ["mid-a:1b", "mid-b", "anna/mid-a", "hf.co/library/mid-a", "http://mid-a"]
)
def test_other_names_are_not_equal(text: str) -> None:
    assert ModelName.parse(text) != ModelName.parse("mid-a")


def test_a_name_keeps_the_case_that_it_was_written_in() -> None:
    assert ModelName.parse("Mid-A").full == "Mid-A:latest"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/mid-a",
        "mid-a:",
        "mid-a/",
        ":latest",
        "-mid-a",
        ".mid-a",
        "mid a",
        "mid-a:1:2",
        "an.na/mid-a",
        "one/host/anna/mid-a",
        "registry.ollama.ai/mid-a",
        "http://library/mid-a",
        "mid-ä",
        "mid-a\n",
        "library/",
        "x" * 81,
    ],
)
def test_what_ollama_refuses_is_not_valid_and_equals_no_valid_name(text: str) -> None:
    name = ModelName.parse(text)
    assert not name.is_valid
    assert name not in {ModelName.parse("mid-a"), ModelName.parse("latest")}


def test_the_empty_name_is_false() -> None:
    assert not ModelName.parse("")
    assert ModelName.parse("") == NO_NAME
    assert (NO_NAME.full, NO_NAME.short) == ("", "")
    assert ModelName.parse("mid-a")


@given(st.lists(PARTS, min_size=1, max_size=3), st.none() | PARTS)
def test_both_spellings_of_a_name_read_back_as_it(path: list[str], tag: str | None) -> None:
    name = ModelName.parse("/".join(path) + (f":{tag}" if tag else ""))
    assert name.is_valid
    for text in (name.full, name.short, name.key):
        assert ModelName.parse(text) == name
    assert ModelName.parse(name.full).full == name.full


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    name = ModelName.parse(text)
    assert ModelName.parse(name.full) == name
    assert bool(name) == bool(text)
