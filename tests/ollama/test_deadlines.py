"""Deadlines: one thread keeps all of them, and cancelled ones are forgotten."""

from __future__ import annotations

import threading

import pytest

from switcher.ollama import deadlines
from switcher.ollama.deadlines import Deadlines
from tests.clocks import FakeClock
from tests.until import until


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr(deadlines, "time", made)
    return made


def wait(made: Deadlines, clock: FakeClock, seconds: float) -> None:
    """Let time pass, and wait until each deadline that is due by then was kept."""
    clock.pass_time(seconds)
    with made._sooner:
        made._sooner.notify()
    until(lambda: not made._heap or made._heap[0][0] > clock.monotonic())


def test_deadlines_are_kept_at_their_times_and_not_before(clock: FakeClock) -> None:
    made, kept = Deadlines(), []
    for after_s in (30, 10, 20):
        made.set(after_s, lambda s=after_s: kept.append(s))  # type: ignore[misc]
    for passed_s, due in ((9, []), (1, [10]), (10, [10, 20]), (99, [10, 20, 30])):
        wait(made, clock, passed_s)
        until(lambda due=due: kept == due)  # type: ignore[misc]


def test_a_cancelled_deadline_is_not_kept(clock: FakeClock) -> None:
    made, kept = Deadlines(), []
    first = made.set(10, lambda: kept.append("first"))
    made.set(20, lambda: kept.append("second"))
    first.cancel()
    wait(made, clock, 20)
    until(lambda: kept)
    assert kept == ["second"]


def test_a_sooner_deadline_does_not_wait_for_a_later_one() -> None:
    made, kept = Deadlines(), []
    made.set(3600, lambda: kept.append("late"))
    made.set(0.0, lambda: kept.append("soon"))
    until(lambda: kept == ["soon"])


def test_thousands_of_deadlines_take_one_thread() -> None:
    made = Deadlines()
    before = threading.active_count()
    for deadline in [made.set(3600, lambda: None) for _ in range(5000)]:
        deadline.cancel()
    assert threading.active_count() <= before + 1
    made.set(0.0, lambda: None)
    until(lambda: not made._heap)


def test_an_act_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    made, kept = Deadlines(), []
    made.set(0.0, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    made.set(0.01, lambda: kept.append("second"))
    until(lambda: kept)
    assert "action of a deadline failed" in caplog.text
