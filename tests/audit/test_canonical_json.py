"""One text for one value: what the trail is made of."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switcher.audit.ledger import canonical
from switcher.domain.states import State

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def floats_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(floats_in(v) for v in value.values())
    if isinstance(value, list):
        return any(floats_in(v) for v in value)
    return isinstance(value, float)


@given(VALUES)
def test_the_text_holds_no_floats_and_is_its_own_canonical_form(value: Any) -> None:
    text = canonical(value)
    read = json.loads(text, parse_float=lambda _: pytest.fail("a float"))
    assert not floats_in(read)
    assert canonical(read) == text


@given(st.dictionaries(st.text(max_size=4), st.integers()))
def test_the_order_of_keys_changes_nothing(value: dict[str, int]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


@given(st.sets(st.text(max_size=5), max_size=6))
def test_a_set_has_one_text(value: set[str]) -> None:
    assert json.loads(canonical(value)) == sorted(value)
    assert canonical(frozenset(value)) == canonical(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1, 2]}, '{"a":[1,2],"b":1}'),
        (1.5, '"1.500"'),
        (float("nan"), '"nan"'),
        (datetime(2026, 11, 23, 9, tzinfo=UTC), '"2026-11-23T09:00:00.000000Z"'),
        (State.ACTIVE, '"active"'),
        (True, "true"),
        (None, "null"),
        ("Zürich ✓", '"Zürich ✓"'),
        (Decimal("1.10"), '"1.10"'),
        ((1, (2,)), "[1,[2]]"),
        ({1: "a"}, '{"1":"a"}'),
    ],
)
def test_values_as_they_are_written(value: Any, text: str) -> None:
    assert canonical(value) == text


def test_keys_are_sorted_by_utf_16_code_unit_as_in_the_example_of_rfc_8785() -> None:
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    order = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical(value))) == order


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert canonical({"\ud800": "\udfff!"}) == '{"?":"?!"}'
