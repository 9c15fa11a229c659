"""Deadlines of calls, all kept by one thread: a timer for each call would be a thread for each, and
with hundreds of readings a second the dearest part of them."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Deadline:
    """One moment at which something is to be done, unless it is cancelled before."""

    __slots__ = ("act", "at")

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        """From any thread. What is under way at this moment is not waited for."""
        self.act = None


class Deadlines:
    """`set` from any thread. The thread that keeps them begins with the first one, and sleeps while
    none is near."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._heap: list[tuple[float, int, Deadline]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def set(self, after_s: float, act: Callable[[], None]) -> Deadline:
        """Have `act` called in so many seconds; it must be quick."""
        made = Deadline(time.monotonic() + after_s, act)
        with self._news:
            heapq.heappush(self._heap, (made.at, next(self._numbers), made))
            if self._heap[0][2] is made:
                self._news.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="deadlines", daemon=True)
                self._thread.start()
        return made

    def _keep(self) -> None:
        while True:
            act = self._next()
            try:
                act()
            except Exception:
                log.exception("a deadline that has come could not be kept")

    def _next(self) -> Callable[[], None]:
        """Wait for the next one that is due."""
        with self._news:
            while True:
                while self._heap and self._heap[0][2].act is None:
                    heapq.heappop(self._heap)
                left = self._heap[0][0] - time.monotonic() if self._heap else None
                if left is not None and left <= 0:
                    act = heapq.heappop(self._heap)[2].act
                    if act is not None:  # not cancelled just now
                        return act
                    continue
                self._news.wait(left)


deadlines = Deadlines()
