"""What a profile asks for: names, keep-alives, options, warm-ups, limits."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switcher.domain.errors import BadRequest
from switcher.domain.specs import (
    DEFAULT_WARMUPS,
    FOREVER,
    KNOWN_OPTIONS,
    RUNNER_OPTIONS,
    Spec,
    WarmUp,
    check_keep_alive,
    check_keeps_active,
    check_options,
    check_tag,
    check_warmups,
    keep_alive_s,
    load_timeout_s,
    wire_keep_alive,
)

# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag",
    [
        "mid-a",
        "mid-a:latest",
        "qwen2.5:14b-instruct-q4_K_M",
        "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        "_mine",
    ],
)
def test_names_as_the_server_lists_them_are_taken(tag: str) -> None:
    assert check_tag(f"  {tag} ") == tag


@pytest.mark.fact(20)
@pytest.mark.parametrize(
    ("tag", "kept"),
    [
        ("library/qwen2.5:14b", "qwen2.5:14b"),
        ("https://registry.ollama.ai/library/qwen2.5:14b", "qwen2.5:14b"),
        ("registry.ollama.ai/anna/mid-a", "anna/mid-a"),
        ("mid-a:local", "mid-a"),
        ("qwen2.5:14b:local", "qwen2.5:14b"),
        ("gpt-oss:120b:cloud", "gpt-oss:120b-cloud"),
    ],
)
def test_what_ollama_takes_for_granted_is_left_out_of_a_name(tag: str, kept: str) -> None:
    assert check_tag(tag) == kept


@pytest.mark.parametrize(
    "tag",
    [
        "",
        " ",
        "../x",
        "a/../b",
        "a/./b",
        "a b",
        "a:b:c",
        ":latest",
        "a:",
        "a:.b",
        "/a",
        "a/",
        "a//b",
        "-a",
        "a/b/c/d/e",
        "a\nb",
        "a\x00",
        "ä",
        "a:ä",
        "a?b",
        "a#b",
        "a%2e",
        "http://x/y",
        "x" * 201,
    ],
)
def test_what_the_server_would_refuse_is_refused_before(tag: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_tag(tag)
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    ("tag", "full"),
    [
        ("mid-a", "mid-a:latest"),
        ("mid-a:14b", "mid-a:14b"),
        ("host.test/lib/a", "host.test/lib/a:latest"),
    ],
)
@pytest.mark.fact(20)
def test_a_bare_name_means_latest(tag: str, full: str) -> None:
    assert Spec("p", tag).name.full == full


# --- keep-alives -----------------------------------------------------------------------------


@pytest.mark.fact(7)
@pytest.mark.parametrize(
    ("text", "kept", "wire", "seconds"),
    [
        ("forever", FOREVER, -1, None),
        ("-1", FOREVER, -1, None),
        ("-1s", FOREVER, -1, None),
        (" For ever ", FOREVER, -1, None),
        ("0", "0", 0, 0),
        ("0s", "0", 0, 0),
        ("0h0m", "0", 0, 0),
        ("0.0s", "0", 0, 0),
        ("30m", "30m", "30m", 1800),
        ("1h30m", "1h30m", "1h30m", 5400),
        ("1.5h", "1.5h", "1.5h", 5400),
        ("90S", "90s", "90s", 90),
        ("250ms", "250ms", "250ms", 0.25),
        ("1m250ms", "1m250ms", "1m250ms", 60.25),
        ("24h", "24h", "24h", 86_400),
        ("300s", "300s", "300s", 300),
        (".5h", ".5h", ".5h", 1800),
        ("1.h", "1.h", "1.h", 3600),
        ("+30m", "30m", "30m", 1800),
        ("500us", "500us", "500us", 0.0005),
        ("500µs", "500µs", "500µs", 0.0005),
        ("1s5ns", "1s5ns", "1s5ns", 1.000000005),
        ("-1m", FOREVER, -1, None),
        ("-1h", FOREVER, -1, None),
        ("-30m", FOREVER, -1, None),
        ("-1h30m", FOREVER, -1, None),
        ("-5", FOREVER, -1, None),
        ("-1.0", FOREVER, -1, None),
        ("-0s", "0", 0, 0),
        ("-0", "0", 0, 0),
        ("0.0", "0", 0, 0),
        ("infinite", FOREVER, -1, None),
        ("Infinity", FOREVER, -1, None),
        ("inf", FOREVER, -1, None),
        ("∞", FOREVER, -1, None),
        ("never", FOREVER, -1, None),
        ("1d", "24h", "24h", 86_400),
        ("1.5d", "36h", "36h", 129_600),
        ("1d12h", "24h12h", "24h12h", 129_600),
        ("1w", "168h", "168h", 604_800),
    ],
)
def test_a_keep_alive_is_kept_in_one_spelling_and_said_as_the_server_takes_it(
    text: str, kept: str, wire: object, seconds: float | None
) -> None:
    assert check_keep_alive(text) == kept
    assert wire_keep_alive(kept) == wire
    assert type(wire_keep_alive(kept)) is type(wire)
    assert keep_alive_s(kept) == seconds


@pytest.mark.fact(7)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",  # nobody can tell seconds from minutes
        "abc",
        "true",
        "1y",
        "30 m",
        "30min",
        "PT30M",
        "1:30",
        "--1",
        "-",
        "+",
        "m",
        ".",
        "1h30",
        "1..5h",
        "1e3s",
        "٣٠m",
        "30m\n30m",
        "0x10s",
        "99999999h",  # past what a Go duration holds
        "9" * 300 + "s",
        "1m" * 50,  # longer than a profile keeps
        "0.0000001ms",  # nought to the server
        "1000000d",
    ],
)
def test_what_no_server_takes_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_keep_alive(text)
    assert caught.value.field == "keep_alive"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("300", "Write 300s for seconds or 300m for minutes."),
        ("30min", "Write 30m."),
        ("30 minutes", "Write 30m."),
        ("2 hours", "Write 2h."),
        ("1 day", "Write 24h."),
        ("2weeks", "Write 336h."),
        ("soon", "for example 30m, 24h or forever"),
    ],
)
def test_a_refused_keep_alive_names_the_spelling_that_works(text: str, advice: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(advice)):
        check_keep_alive(text)


@pytest.mark.parametrize("keep_alive", ["0", "1ms", "999ms", "500us"])
def test_a_model_that_is_unloaded_after_each_use_cannot_be_active(keep_alive: str) -> None:
    with pytest.raises(BadRequest, match="could not stay loaded. It comes from the request."):
        check_keeps_active(keep_alive, "It comes from the request.")


@pytest.mark.parametrize("keep_alive", ["1s", "30m", FOREVER])
def test_other_models_can(keep_alive: str) -> None:
    check_keeps_active(keep_alive, "")


@given(st.text(max_size=12))
def test_whatever_is_taken_is_taken_again_in_its_kept_spelling(text: str) -> None:
    try:
        kept = check_keep_alive(text)
    except BadRequest:
        return
    assert check_keep_alive(kept) == kept
    assert len(kept) <= 20, "as long as a profile's column"


@given(st.integers(1, 9999), st.sampled_from(["h", "m", "s", "ms"]))
def test_every_plain_duration_is_taken(number: int, unit: str) -> None:
    text = f"{number}{unit}"
    assert check_keep_alive(text) == text
    scale = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit]
    assert keep_alive_s(text) == pytest.approx(number * scale)


# --- options ---------------------------------------------------------------------------------


def test_options_keep_their_types() -> None:
    asked = {"num_ctx": 8192, "use_mmap": True, "temperature": 1, "top_p": 0.9, "seed": -1}
    checked = check_options(asked)
    assert checked == asked
    assert isinstance(checked["temperature"], float)


@pytest.mark.parametrize(
    "options",
    [
        None,
        [],
        "num_ctx=1",
        5,
        {"num_predict": 8},  # a warm-up's, not a profile's
        {"nonsense": 1},
        {"num_ctx": "8192"},
        {"num_ctx": 8192.0},
        {"num_ctx": True},
        {"num_ctx": None},
        {"num_ctx": -2},
        {"num_ctx": 2**31},
        {"num_ctx": 10**400},
        {"use_mmap": 1},
        {"use_mmap": "yes"},
        {"temperature": "hot"},
        {"temperature": True},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": float("-inf")},
        {"temperature": 10**400},
        {"top_p": [0.9]},
        {1: 2},
        {"": 1},
    ],
    ids=repr,
)
def test_options_that_are_none_are_refused(options: object) -> None:
    with pytest.raises(BadRequest) as caught:
        check_options(options)
    assert caught.value.field == "options"


@given(
    st.dictionaries(
        st.sampled_from(sorted(KNOWN_OPTIONS)) | st.text(max_size=4),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        max_size=4,
    )
)
def test_options_that_are_taken_can_be_said_in_json(options: dict[str, Any]) -> None:
    try:
        checked = check_options(options)
    except BadRequest:
        return
    assert json.loads(json.dumps(checked, allow_nan=False)) == checked
    assert set(checked) == set(options)


@pytest.mark.fact(12)
def test_only_runner_options_decide_how_a_model_is_loaded() -> None:
    spec = Spec("p", "mid-a", options={"num_ctx": 8192, "temperature": 0.5, "use_mmap": False})
    assert spec.runner_options == {"num_ctx": 8192, "use_mmap": False}
    assert set(spec.runner_options) <= set(RUNNER_OPTIONS)
    assert spec.num_ctx == 8192
    assert Spec("p", "mid-a").num_ctx is None


# --- warm-ups --------------------------------------------------------------------------------


def test_no_warm_up_means_the_default_one() -> None:
    assert check_warmups([]) == check_warmups(()) == DEFAULT_WARMUPS


def test_several_warm_ups_keep_their_order_and_their_limits() -> None:
    rows = [{"prompt": "Hello"}, {"prompt": "Count to ten.", "num_predict": 64}]
    assert check_warmups(rows) == (WarmUp("Hello", 8), WarmUp("Count to ten.", 64))


@pytest.mark.fact(11)
@pytest.mark.parametrize("limit", [0, -1, 513, 10**30, 8.0, "8", None, True, [8]])
def test_a_warm_up_without_a_sane_limit_is_refused(limit: object) -> None:
    with pytest.raises(BadRequest) as caught:
        check_warmups([{"prompt": "Hello", "num_predict": limit}])
    assert caught.value.field == "warmups"


@pytest.mark.parametrize(
    "rows",
    [
        None,
        "Hello",
        {"prompt": "Hello"},
        5,
        ["Hello"],
        [None],
        [{}],
        [{"prompt": ""}],
        [{"prompt": "  "}],
        [{"prompt": 5}],
        [{"prompt": "x" * 4001}],
        [{"prompt": "Hello"}] * 9,
    ],
    ids=lambda rows: repr(rows)[:30],
)
def test_what_is_no_list_of_prompts_is_refused(rows: object) -> None:
    with pytest.raises(BadRequest) as caught:
        check_warmups(rows)
    assert caught.value.field == "warmups"


# --- the frozen spec -------------------------------------------------------------------------

SPECS = st.builds(
    Spec,
    profile=st.text(max_size=10),
    tag=st.sampled_from(["mid-a", "qwen2.5:14b"]),
    keep_alive=st.sampled_from([FOREVER, "0", "30m"]),
    options=st.dictionaries(
        st.sampled_from(sorted(KNOWN_OPTIONS)),
        st.booleans() | st.integers(-1, 2**31 - 1) | st.floats(0, 2),
    ),
    warmups=st.lists(
        st.builds(WarmUp, st.text(min_size=1, max_size=20), st.integers(1, 512)), max_size=8
    ).map(tuple),
    load_timeout_s=st.none() | st.integers(1, 10**6),
    min_gpu_percent=st.none() | st.integers(0, 100),
    min_tokens_per_s=st.none() | st.floats(0, 1000),
    floor_fails=st.booleans(),
)


@given(SPECS)
def test_a_spec_is_the_same_after_it_was_written_down(spec: Spec) -> None:
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.fact(9)
def test_a_load_may_take_longer_the_larger_the_model_is() -> None:
    spec, gb = Spec("p", "mid-a"), 10**9
    assert load_timeout_s(spec, 0) == load_timeout_s(spec, gb) == 120
    assert load_timeout_s(spec, 40 * gb) == 860
    assert load_timeout_s(spec, 80 * gb) > load_timeout_s(spec, 40 * gb)


@given(st.integers(0, 2**63))
def test_a_load_is_never_given_less_than_two_minutes(size: int) -> None:
    assert load_timeout_s(Spec("p", "mid-a"), size) >= 120


def test_a_profile_may_set_its_own_limit() -> None:
    assert load_timeout_s(Spec("p", "mid-a", load_timeout_s=30), 10**12) == 30
