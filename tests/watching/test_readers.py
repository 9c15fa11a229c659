"""The threads that read: as many as it takes, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from switcher.watching import readers
from switcher.watching.readers import Readers
from tests.until import PATIENCE_S, until


class Jobs:
    """Jobs that wait until they are let go, by name."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.gates: dict[str, threading.Event] = {}

    def hold(self, *names: str) -> None:
        for name in names:
            self.gates[name] = threading.Event()

    def let_go(self, *names: str) -> None:
        for name in names or list(self.gates):
            self.gates[name].set()

    def __call__(self, name: str) -> None:
        self.begun.append(name)
        if name in self.gates:
            assert self.gates[name].wait(PATIENCE_S)
        if name.startswith("bad"):
            raise ZeroDivisionError
        self.done.append(name)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def make(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Readers[str]]]:
    monkeypatch.setattr(readers, "STUCK_S", 3600.0)
    monkeypatch.setattr(readers, "MAX_WAIT_S", 0.0)
    made: list[Readers[str]] = []

    def begin(at_work: int, most: int) -> Readers[str]:
        made.append(Readers("reader", jobs, at_work, most))
        return made[-1]

    yield begin
    jobs.let_go()
    for each in made:
        assert each.stop(PATIENCE_S)
        assert each.threads == []


def tend_until(pool: Readers[str], true: Callable[[], Any]) -> None:
    def tended() -> Any:
        pool.tend()
        return true()

    until(tended)


def test_there_are_no_threads_while_there_is_nothing_to_do(make: Any) -> None:
    assert make(4, 8).threads == []


def test_one_thread_does_what_one_can_do(make: Any, jobs: Jobs) -> None:
    pool = make(4, 8)
    for n in range(50):
        pool.put(str(n))
    until(lambda: len(jobs.done) == 50)
    assert jobs.done == [str(n) for n in range(50)], "in their order"
    assert len(pool.threads) == 1


def test_where_a_job_waits_another_thread_begins(make: Any, jobs: Jobs) -> None:
    pool = make(4, 8)
    jobs.hold("a")
    pool.put("a")
    until(lambda: jobs.begun == ["a"])
    pool.put("b")
    assert pool.waiting
    tend_until(pool, lambda: jobs.done == ["b"])
    assert len(pool.threads) == 2


def test_no_more_work_at_a_time_than_may(make: Any, jobs: Jobs) -> None:
    pool = make(2, 8)
    jobs.hold("a", "b", "c")
    for name in "abc":
        pool.put(name)
    tend_until(pool, lambda: jobs.begun == ["a", "b"])
    for _ in range(20):
        pool.tend()
    assert len(pool.threads) == 2
    assert pool.waiting
    jobs.let_go("a")
    until(lambda: jobs.begun == ["a", "b", "c"])


def test_who_is_stuck_is_replaced_until_there_are_too_many(
    make: Any, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "STUCK_S", 0.0)
    pool = make(1, 3)
    names = ["a", "b", "c", "d"]
    jobs.hold(*names)
    for name in names:
        pool.put(name)
    tend_until(pool, lambda: jobs.begun == ["a", "b", "c"])
    for _ in range(20):
        pool.tend()
    assert len(pool.threads) == 3
    jobs.let_go("b")
    until(lambda: jobs.begun == names)


def test_those_that_are_not_needed_any_more_end(
    make: Any, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "STUCK_S", 0.0)
    pool = make(1, 5)
    jobs.hold("a", "b", "c")
    for name in "abc":
        pool.put(name)
    tend_until(pool, lambda: len(jobs.begun) == 3)
    monkeypatch.setattr(readers, "STUCK_S", 3600.0)
    jobs.let_go()
    until(lambda: len(pool.threads) == 1)
    pool.put("d")
    until(lambda: sorted(jobs.done) == ["a", "b", "c", "d"])


def test_a_thread_that_was_long_idle_ends_and_the_next_job_is_done(
    make: Any, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "IDLE_TIMEOUT_S", 0.01)
    pool = make(4, 8)
    pool.put("a")
    until(lambda: jobs.done == ["a"] and pool.threads == [])
    pool.put("b")
    until(lambda: jobs.done == ["a", "b"])


def test_no_job_is_lost_while_threads_come_and_go(
    make: Any, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is idle for no time at all, and stuck as soon as it begins."""
    monkeypatch.setattr(readers, "IDLE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(readers, "STUCK_S", 0.0)
    pool = make(1, 4)
    for n in range(3000):
        pool.put(str(n))
        pool.tend()
    until(lambda: len(jobs.done) == 3000)
    assert sorted(map(int, jobs.done)) == list(range(3000)), "and each was done once"


def test_a_fault_ends_no_thread(make: Any, jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    pool = make(1, 1)
    for name in ("bad", "a"):
        pool.put(name)
    until(lambda: jobs.done == ["a"])
    assert "reader: unexpected" in caplog.text


def test_after_the_stop_nothing_begins(make: Any, jobs: Jobs) -> None:
    pool = make(1, 1)
    jobs.hold("a")
    pool.put("a")
    until(lambda: jobs.begun == ["a"])
    pool.put("b")
    pool.stop()
    jobs.let_go()
    until(lambda: pool.threads == [])
    assert jobs.done == ["a"]
