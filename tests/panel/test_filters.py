from __future__ import annotations

from datetime import timedelta

import pytest

from switcher.panel import filters
from tests.make import NOW


@pytest.mark.parametrize(
    ("count", "text"),
    [(5_100_000_000, "5.1"), (44_000_000_000, "44"), (300_000_000, "0.3"), (0, "0"), (None, "–")],
)
def test_sizes_are_decimal_gigabytes(count: int | None, text: str) -> None:
    assert filters.gb(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1 ms"), (0.03, "30 ms"), (0.4, "0.4 s"), (24.4, "24.4 s"), (457, "7 min 37 s")],
)
def test_measured_durations(seconds: float, text: str) -> None:
    assert filters.took(seconds).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (12.6, "13 s"), (125, "2 min 5 s"), (120, "2 min"), (1500, "25 min")],
)
def test_durations_in_whole_units(seconds: float, text: str) -> None:
    assert filters.span(seconds).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2, "2 s ago"), (240, "4 min ago"), (7200, "2 h ago"), (260_000, "3 days ago")],
)
def test_how_long_ago(seconds: float, text: str) -> None:
    moment = NOW - timedelta(seconds=seconds)
    assert filters.ago(moment, NOW).replace("\u00a0", " ") == text


def test_names_of_models_are_set_in_mono_and_all_else_is_escaped() -> None:
    text = filters.mono("<b> phi4 is active, not phi4:14b.", ["phi4", "phi4:14b"])
    assert text == (
        '&lt;b&gt; <span class="mono">phi4</span> is active, '
        'not <span class="mono">phi4:14b</span>.'
    )


def test_a_quotation_of_ollama_is_code_and_escaped() -> None:
    assert filters.error_text("Ollama answered 500: <oom>", []) == (
        "Ollama answered 500: <code>&lt;oom&gt;</code>"
    )
    assert filters.error_text("No connection.", []) == "No connection."
