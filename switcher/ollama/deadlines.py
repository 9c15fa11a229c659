"""Deadlines of calls, all watched by one thread.

A timer for each call would be a thread for each call, and with hundreds of readings a second their
most expensive part.
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
    """A moment at which something is done, unless it is cancelled before."""

    __slots__ = ("act", "at")

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at  # by time.monotonic
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        """Cancel it, from any thread. Does not wait for an act that has just begun."""
        self.act = None


class Deadlines:
    """Deadlines and their thread, which starts with the first and sleeps until one is due."""

    def __init__(self) -> None:
        self._sooner = threading.Condition()  # notified when a new deadline is the first one
        self._heap: list[tuple[float, int, Deadline]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def set(self, after_s: float, act: Callable[[], None]) -> Deadline:
        """Have `act` called after that many seconds, from any thread. It must be quick."""
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
                log.exception("A deadline that had come was not kept.")

    def _next(self) -> Callable[[], None]:
        """Wait for the next deadline that is due, and return its act."""
        with self._sooner:
            while True:
                while self._heap and self._heap[0][2].act is None:
                    heapq.heappop(self._heap)
                left_s = self._heap[0][0] - time.monotonic() if self._heap else None
                if left_s is not None and left_s <= 0:
                    act = heapq.heappop(self._heap)[2].act
                    if act is not None:  # not cancelled just now
                        return act
                    continue
                self._sooner.wait(left_s)


deadlines = Deadlines()
