from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_simulator.durations import FOREVER_S, BadDuration, keep_alive_s, parse_go_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        (90, 90),
        (1.5, 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("5.s", 5),
        ("1h0m0.25s", 3600.25),
        ("300ms", 0.3),
        ("1000us", 0.001),
        ("1000µs", 0.001),
        ("1000000ns", 0.001),
        ("+2m", 120),
        (-1, FOREVER_S),
        ("-1s", FOREVER_S),
        ("-1h30m", FOREVER_S),
    ],
)
def test_what_go_takes_is_taken(value: object, seconds: float) -> None:
    assert keep_alive_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("-1", 'time: missing unit in duration "-1"'),
        ("30", 'time: missing unit in duration "30"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("5y", 'time: unknown unit "y" in duration "5y"'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("m", 'time: invalid duration "m"'),
        (".s", 'time: invalid duration ".s"'),
        ("forever", 'time: invalid duration "forever"'),
        ("9999999999h", 'time: invalid duration "9999999999h"'),
        (False, "Unsupported type: 'bool'"),
        ({"s": 1}, "Unsupported type: 'map[string]interface {}'"),
        ([1], "Unsupported type: '[]interface {}'"),
    ],
)
def test_what_go_refuses_is_refused_in_its_words(value: object, text: str) -> None:
    with pytest.raises(BadDuration) as caught:
        keep_alive_s(value)
    assert str(caught.value) == text


@given(hours=st.integers(0, 1000), minutes=st.integers(0, 1000), ms=st.integers(0, 10**6))
def test_parts_add_up(hours: int, minutes: int, ms: int) -> None:
    ns = parse_go_duration(f"{hours}h{minutes}m{ms}ms")
    assert ns == ((hours * 60 + minutes) * 60_000 + ms) * 10**6


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_is_refused(text: str) -> None:
    with suppress(BadDuration):
        assert abs(parse_go_duration(text)) < 2**63
