"""The threads that read hosts: as many as needed, up to a limit.

A host that hangs makes its thread wait for seconds. Such a thread counts as stuck and is replaced
by another, so that the other jobs continue.
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
MAX_WAIT_S = 0.04  # for a job that waits longer, another thread is started
IDLE_TIMEOUT_S = 30.0


class Readers(Generic[T]):
    """Runs jobs in order in up to `at_work` threads that are not stuck, and `max_threads` in all.
    Call `put` and `stop` from any thread, and `tend` from the one that hands out jobs."""

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        at_work: int,
        max_threads: int,
        clock: Clock = system,
    ) -> None:
        self._name = name
        self._work = work
        self._at_work = at_work
        self._max_threads = max_threads
        self._clock = clock
        self._changed = threading.Condition()
        self._jobs: deque[tuple[float, T]] = deque()
        self._began: dict[threading.Thread, float] = {}  # when each started its job
        self._threads: set[threading.Thread] = set()
        self._stopped = False

    @property
    def threads(self) -> list[threading.Thread]:
        """Return the threads that are alive."""
        with self._changed:
            return list(self._threads)

    @property
    def waiting(self) -> bool:
        """Return whether any job has not been started yet."""
        return bool(self._jobs)

    def put(self, job: T) -> None:
        with self._changed:
            self._jobs.append((self._clock.monotonic(), job))
            if not self._threads:
                self._begin()
            self._changed.notify()

    def tend(self) -> None:
        """Start another thread for each job that has waited too long, up to the limits."""
        with self._changed:
            if not self._jobs:
                return
            now = self._clock.monotonic()
            late = sum(now - since >= MAX_WAIT_S for since, _ in self._jobs)
            room = min(self._at_work - self._working(now), self._max_threads - len(self._threads))
            for _ in range(min(late, room)):
                self._begin()

    def stop(self, patience_s: float = 0.0) -> bool:
        """Start no more jobs and return whether all threads have ended. A running job ends within
        its timeout."""
        with self._changed:
            self._stopped = True
            self._jobs.clear()
            self._changed.notify_all()
        for thread in self.threads:
            thread.join(patience_s)
        return not self.threads

    def _working(self, now: float) -> int:
        """Return the number of threads that are not stuck."""
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
        """Return the next job, or None if this thread is no longer needed."""
        with self._changed:
            self._began.pop(me, None)
            while not self._surplus():
                if self._jobs:
                    self._began[me] = self._clock.monotonic()
                    return self._jobs.popleft()
                if not self._changed.wait(IDLE_TIMEOUT_S) and not self._jobs:
                    break
            self._threads.discard(me)
            return None

    def _surplus(self) -> bool:
        """Return whether there are too many threads, now that stuck ones have recovered."""
        return self._stopped or self._working(self._clock.monotonic()) > self._at_work
