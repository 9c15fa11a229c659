"""The threads that read hosts: as many as it takes, within bounds.

Reading is waiting, and a host that hangs has a thread wait for seconds. Such a thread counts as
stuck: another one takes its place, so that those who wait their turn go on.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from switcher.domain.clock import Clock, system

log = logging.getLogger(__name__)

T = TypeVar("T")

STUCK_S = 0.25
PATIENCE_S = 0.04  # a job that waits longer than this has a thread more begin
IDLE_S = 30.0


class Readers(Generic[T]):
    """Do jobs in their order, `at_work` at a time without those that are stuck, and `most` with
    them. `put` from any thread; `tend` and `stop` from the one that hands out jobs."""

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        at_work: int,
        most: int,
        clock: Clock = system,
    ) -> None:
        self._name = name
        self._work = work
        self._at_work = at_work
        self._most = most
        self._clock = clock
        self._news = threading.Condition()
        self._jobs: deque[tuple[float, T]] = deque()
        self._began: dict[threading.Thread, float] = {}  # who is at work, and since when
        self._threads: set[threading.Thread] = set()
        self._stopped = False

    @property
    def threads(self) -> list[threading.Thread]:
        """Those that live, for who waits for their end."""
        with self._news:
            return list(self._threads)

    @property
    def waiting(self) -> bool:
        """Whether a job has not begun."""
        return bool(self._jobs)

    def put(self, job: T) -> None:
        with self._news:
            self._jobs.append((self._clock.monotonic(), job))
            if not self._threads:
                self._begin()
            self._news.notify()

    def tend(self) -> None:
        """A thread more for each job that waits too long, where those at work are too few."""
        with self._news:
            if not self._jobs:
                return
            now = self._clock.monotonic()
            late = sum(now - since >= PATIENCE_S for since, _ in self._jobs)
            room = min(self._at_work - self._working(now), self._most - len(self._threads))
            for _ in range(min(late, room)):
                self._begin()

    def stop(self) -> None:
        """Begin nothing more. What is under way ends by itself, within its deadline."""
        with self._news:
            self._stopped = True
            self._jobs.clear()
            self._news.notify_all()

    def _working(self, now: float) -> int:
        """Threads that are not stuck."""
        stuck = sum(now - began >= STUCK_S for began in self._began.values())
        return len(self._threads) - stuck

    def _begin(self) -> None:
        thread = threading.Thread(target=self._work_on, name=self._name, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work_on(self) -> None:
        me = threading.current_thread()
        while (job := self._next(me)) is not None:
            try:
                self._work(job[1])
            except Exception:
                log.exception("%s: unexpected", self._name)

    def _next(self, me: threading.Thread) -> tuple[float, T] | None:
        """The next job, or None for a thread that is needed no longer."""
        with self._news:
            self._began.pop(me, None)
            while not self._surplus():
                if self._jobs:
                    self._began[me] = self._clock.monotonic()
                    return self._jobs.popleft()
                if not self._news.wait(IDLE_S) and not self._jobs:
                    break
            self._threads.discard(me)
            return None

    def _surplus(self) -> bool:
        """Whether there are more than may work, now that those in whose place they came go on."""
        return self._stopped or self._working(self._clock.monotonic()) > self._at_work
