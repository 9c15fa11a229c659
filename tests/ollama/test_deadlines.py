"""Deadlines: one thread keeps all of them, and cancelled ones are forgotten."""

from __future__ import annotations

import threading
import time

import pytest

from switcher.ollama.deadlines import Deadlines
from tests.until import until


def test_deadlines_are_kept_in_the_order_of_their_times() -> None:
    made, kept = Deadlines(), []
    began = time.monotonic()
    for after_s in (0.15, 0.05, 0.1):
        made.set(after_s, lambda s=after_s: kept.append((s, time.monotonic() - began)))  # type: ignore[misc]
    until(lambda: len(kept) == 3)
    assert [s for s, _ in kept] == [0.05, 0.1, 0.15]
    for wanted, at in kept:
        assert wanted <= at < wanted + 1


def test_a_cancelled_deadline_is_not_kept() -> None:
    made, kept = Deadlines(), []
    first = made.set(0.05, lambda: kept.append("first"))
    made.set(0.1, lambda: kept.append("second"))
    first.cancel()
    until(lambda: kept)
    assert kept == ["second"]


def test_a_sooner_deadline_does_not_wait_for_a_later_one() -> None:
    made, kept = Deadlines(), []
    made.set(3600, lambda: kept.append("late"))
    made.set(0.0, lambda: kept.append("soon"))
    until(lambda: kept == ["soon"], 5)


def test_thousands_of_deadlines_take_one_thread() -> None:
    made = Deadlines()
    before = threading.active_count()
    for deadline in [made.set(3600, lambda: None) for _ in range(5000)]:
        deadline.cancel()
    assert threading.active_count() <= before + 1
    made.set(0.0, lambda: None)
    until(lambda: not made._heap, 5)


def test_an_act_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    made, kept = Deadlines(), []
    made.set(0.0, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    made.set(0.01, lambda: kept.append("second"))
    until(lambda: kept)
    assert "action of a deadline failed" in caplog.text
