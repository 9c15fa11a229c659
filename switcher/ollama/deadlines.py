"""Deadlines of calls, all watched by one thread.

A timer per call would mean a thread per call; with hundreds of readings per second, those would be
their most expensive part.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Deadline:
    """An action that is due at some time, unless it is cancelled before."""

    __slots__ = ("act", "at")

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at  # by time.monotonic
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        """Cancel the deadline. Thread-safe. Does not wait for an action that has just begun."""
        self.act = None


class Deadlines:
    """A set of deadlines and their thread, which starts with the first deadline and sleeps until
    one is due."""

    def __init__(self) -> None:
        self._sooner = threading.Condition()  # notified when a new deadline is the first one
        self._heap: list[tuple[float, int, Deadline]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def set(self, after_s: float, act: Callable[[], None]) -> Deadline:
        """Call `act`, which must be quick, after that many seconds. Thread-safe."""
        deadline = Deadline(time.monotonic() + after_s, act)
        with self._sooner:
            heapq.heappush(self._heap, (deadline.at, next(self._numbers), deadline))
            if self._heap[0][2] is deadline:
                self._sooner.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
        return deadline

    def _run(self) -> None:
        while True:
            act = self._next()
            try:
                act()
            except Exception:
                log.exception("The action of a deadline failed.")

    def _next(self) -> Callable[[], None]:
        """Wait until the next deadline is due, and return its action."""
        with self._sooner:
            while True:
                while self._heap and self._heap[0][2].act is None:
                    heapq.heappop(self._heap)
                left_s = self._heap[0][0] - time.monotonic() if self._heap else None
                if left_s is not None and left_s <= 0:
                    act = heapq.heappop(self._heap)[2].act
                    if act is not None:  # not cancelled meanwhile
                        return act
                    continue
                self._sooner.wait(left_s)


deadlines = Deadlines()
