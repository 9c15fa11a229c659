"""The loop that all background work runs in."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator

import pytest
from django.db import connection

from switcher.concurrency.loop import Loop
from tests.until import PATIENCE_S, until

NEVER_S = 3600.0


class Ticks:
    """Counts its calls; fails or returns what a test says."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.wait_s: float | None = None
        self.threads: set[threading.Thread] = set()

    def __call__(self) -> float | None:
        self.count += 1
        self.threads.add(threading.current_thread())
        if self.error is not None:
            raise self.error
        return self.wait_s


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def make(ticks: Ticks) -> Iterator[Callable[..., Loop]]:
    made: list[Loop] = []

    def go(every_s: float = NEVER_S, **options: object) -> Loop:
        made.append(Loop("test", ticks, every_s, **options))  # type: ignore[arg-type]
        return made[-1]

    yield go
    for loop in made:
        assert loop.stop(PATIENCE_S)


def test_it_ticks_at_once_and_again(make: Callable[..., Loop], ticks: Ticks) -> None:
    make(every_s=0.001).start()
    until(lambda: ticks.count > 3)
    (thread,) = ticks.threads
    assert thread.daemon
    assert thread.name == "test"


def test_the_first_tick_can_come_later(make: Callable[..., Loop], ticks: Ticks) -> None:
    loop = make()
    loop.start(after_s=NEVER_S)
    assert loop.stop(PATIENCE_S)
    assert ticks.count == 0


def test_a_wake_up_does_not_wait_for_the_interval(make: Callable[..., Loop], ticks: Ticks) -> None:
    loop = make()
    loop.start()
    for count in (1, 2, 3):
        until(lambda count=count: ticks.count == count)
        loop.wake()
    until(lambda: ticks.count == 4)


def test_a_wake_up_during_a_tick_is_not_lost(make: Callable[..., Loop], ticks: Ticks) -> None:
    loop = make(pause_s=0.01)
    loop.start()
    until(lambda: ticks.count == 1)
    loop.wake()  # at the latest while it pauses
    until(lambda: ticks.count == 2)


def test_a_tick_can_say_when_the_next_one_is_due(make: Callable[..., Loop], ticks: Ticks) -> None:
    ticks.wait_s = 0.001
    make().start()
    until(lambda: ticks.count > 3)


def test_a_tick_can_wait_for_a_wake_up_alone(make: Callable[..., Loop], ticks: Ticks) -> None:
    ticks.wait_s = math.inf
    loop = make(every_s=0.001)
    loop.start()
    until(lambda: ticks.count == 1)
    loop.wake()
    until(lambda: ticks.count == 2)


def test_an_error_is_logged_and_counted_and_does_not_end_the_loop(
    make: Callable[..., Loop], ticks: Ticks, caplog: pytest.LogCaptureFixture
) -> None:
    ticks.error = ValueError("no such table")
    loop = make(every_s=0.01)
    loop.start()
    until(lambda: loop.failures >= 3)
    assert "test failed (1 in a row)" in caplog.text
    assert "test failed (3 in a row)" in caplog.text
    assert "no such table" in caplog.text
    ticks.error = None
    until(lambda: loop.failures == 0)


def test_no_wake_up_hurries_what_has_just_failed(make: Callable[..., Loop], ticks: Ticks) -> None:
    ticks.error = ValueError("no such table")
    loop = make()
    loop.start()
    until(lambda: loop.failures == 1)
    loop.wake()
    assert loop.stop(PATIENCE_S)  # the pause does not keep it from stopping
    assert ticks.count == 1


def test_stopping_waits_for_the_tick_that_runs_but_not_for_ever() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def tick() -> None:
        begun.set()
        may_end.wait(PATIENCE_S)

    loop = Loop("test", tick, 0.001)
    loop.start()
    assert begun.wait(PATIENCE_S)
    assert not loop.stop(0.01)
    assert loop.stopping
    may_end.set()
    assert loop.stop(PATIENCE_S)


def test_a_loop_can_stop_itself_and_what_never_started_is_stopped() -> None:
    loop = Loop("test", lambda: loop.stop(PATIENCE_S) and None, 0.001)
    assert loop.stop(PATIENCE_S)
    again = Loop("test", lambda: again.stop(PATIENCE_S) and None, 0.001)
    again.start()
    until(lambda: not again.alive)


def test_the_end_comes_once_after_the_last_tick(ticks: Ticks) -> None:
    said: list[int] = []
    loop = Loop("test", ticks, 0.001, at_end=lambda: said.append(ticks.count))
    loop.start()
    until(lambda: ticks.count > 2)
    assert loop.stop(PATIENCE_S)
    assert said == [ticks.count]


def test_an_end_that_fails_is_logged(ticks: Ticks, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ConnectionError("the database is away")

    loop = Loop("test", ticks, NEVER_S, at_end=fail)
    loop.start()
    assert loop.stop(PATIENCE_S)
    assert "the database is away" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_failure_and_the_end_close_the_database_connection() -> None:
    ticks: list[bool] = []

    def tick() -> None:
        ticks.append(connection.connection is None)
        connection.ensure_connection()
        if len(ticks) == 2:
            raise ValueError("a query failed")

    loop = Loop("test", tick, 0.001)
    loop.start()
    until(lambda: len(ticks) > 3)
    assert loop.stop(PATIENCE_S)
    assert ticks[:4] == [True, False, True, False]


def test_a_test_calls_one_tick_without_a_thread(
    make: Callable[..., Loop], ticks: Ticks, caplog: pytest.LogCaptureFixture
) -> None:
    loop = make(every_s=5.0)
    assert loop.tick() == 5.0
    ticks.wait_s = 0.5
    assert loop.tick() == 0.5
    ticks.error = ValueError("no such table")
    assert loop.tick() == 5.0
    assert loop.failures == 1
    assert ticks.threads == {threading.current_thread()}
