"""Names of the copies that are held, and what reaches a model."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_simulator.catalog import valid_name
from switcher.domain.errors import BadRequest
from switcher.domain.model_copies import (
    copy_name,
    find_name,
    is_copy_name,
    what_remains,
    with_model_names,
    without_copies,
)
from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import find_installed
from switcher.domain.specs import check_tag
from tests import make
from tests.make import NOW

DIGEST = "1a2b3c4d5e6f" + "0" * 52


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("qwen2.5:14b", "switchboard-holds/qwen2.5-14b:1a2b3c4d5e6f"),
        ("mid-a:latest", "switchboard-holds/mid-a:1a2b3c4d5e6f"),
        (
            "hf.co/Bart/Llama-3.2:Q4_K_M",
            "switchboard-holds/hf.co-bart-llama-3.2-q4_k_m:1a2b3c4d5e6f",
        ),
    ],
)
def test_a_name_says_what_it_is_a_copy_of(tag: str, name: str) -> None:
    assert copy_name(ModelName.parse(tag), DIGEST).full == name


@given(st.from_regex(r"\A\w[\w.-]{0,90}(/\w[\w.-]{0,90}){0,3}(:\w[\w.-]{0,90})?\Z"))
def test_whatever_the_tag_the_server_takes_the_name(tag: str) -> None:
    model = ModelName.parse(tag)
    name = copy_name(model, DIGEST)
    assert valid_name(name.full)
    assert name.is_valid
    assert is_copy_name(name)
    assert len(name.full) <= 200
    assert name != copy_name(model, "f" + DIGEST[1:])


def test_a_name_that_is_no_part_of_one_still_is_valid() -> None:
    assert copy_name(ModelName.parse("..."), "sha256:" + DIGEST).is_valid


def test_a_handle_is_nothing_to_switch_to() -> None:
    with pytest.raises(BadRequest, match="Name the model itself"):
        check_tag("Switchboard-Holds/mid-a:1a2b3c4d5e6f")


def test_a_model_of_somebody_else_with_a_similar_name_is_none() -> None:
    assert not is_copy_name(ModelName.parse("switchboard-holds"))
    assert not is_copy_name(ModelName.parse("anna/switchboard-holds"))


def test_models_are_listed_without_handles_and_by_their_own_names() -> None:
    model, copy = make.installed("mid-a:latest"), make.installed("switchboard-holds/mid-a:1")
    assert without_copies((copy, model)) == (model,)
    loaded = make.resident(copy.name)
    shown = with_model_names((loaded,), {copy.name: model.name})
    assert [r.name for r in shown] == [model.name]
    assert with_model_names((loaded,), {}) == (loaded,), "one that is not ours keeps its name"


def test_a_model_is_reached_by_its_own_name_else_by_any_that_means_it() -> None:
    own, other = make.installed("mid-a:latest"), make.installed("mid-b:latest")
    copy = make.installed("switchboard-holds/mid-a:1", gb=5.0)
    copy = type(copy)(copy.name, own.digest, copy.size)
    assert find_name(own.digest, own.name, (copy, own, other)) == own.name
    assert find_name(own.digest, own.name, (copy, other)) == copy.name
    assert find_name(own.digest, own.name, (other,)) == NO_NAME


@pytest.mark.fact(20)
def test_a_name_that_leaves_the_host_reaches_nothing_here() -> None:
    away = replace(make.installed("mid-a:1t-cloud"), digest="sha-mid-a")
    assert find_name("sha-mid-a", ModelName.parse("mid-a"), (away,)) == NO_NAME
    assert find_name("sha-mid-a", away.name, (away,)) == away.name, "its own"


def test_a_name_is_found_in_any_case() -> None:
    row = make.installed("Mid-A:latest")
    assert find_installed((row,), ModelName.parse("mid-a")) is row
    assert find_installed((row,), ModelName.parse("mid-b")) is None


@pytest.mark.parametrize(
    ("expires", "said"),
    [
        (NOW.replace(year=2319), "it stays loaded until Ollama on north-1 restarts"),
        (None, "it stays loaded until Ollama on north-1 restarts"),
        (NOW + timedelta(minutes=5), "it is unloaded at 14:37:07, or when Ollama"),
        (NOW + timedelta(days=3), "it is unloaded at 2026-11-27 14:32"),
        (NOW - timedelta(minutes=1), "it is unloaded when its requests have ended, or when"),
    ],
)
def test_what_remains_names_its_time(expires: object, said: str) -> None:
    text = what_remains(make.resident("mid-a:latest", expires_at=expires), "north-1", NOW)
    assert text.startswith("No name on north-1 reaches mid-a any more: ")
    assert said in text
