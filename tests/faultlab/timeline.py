"""Simulated time: runs what is due in order, together with the simulated server's own events."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Protocol

from tests.faultlab.clock import LabClock


class Machine(Protocol):
    """Something with events of its own, such as the simulated server."""

    def next_event_at(self) -> float: ...
    def advance(self, to: float) -> None: ...


class Timeline:
    """A clock that moves from one event to the next. Events at the same time keep their order."""

    def __init__(self, t: float = 0.0) -> None:
        self.clock = LabClock(t)
        self.machine: Machine | None = None
        self.before_machine: Callable[[], None] = lambda: None
        self.after_step: Callable[[], None] = lambda: None
        self.lines: list[tuple[float, str]] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    @property
    def t(self) -> float:
        return self.clock.t

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` after this many seconds."""
        at = max(self.t, round(self.t + seconds, 6))
        heapq.heappush(self._due, (at, next(self._order), act))

    def trace(self, text: str) -> None:
        """Add a line to the record of what happened, for people who replay a schedule."""
        self.lines.append((self.t, text))

    def step(self) -> None:
        """Run the next event, whichever it is."""
        own = self._due[0][0] if self._due else math.inf
        theirs = self.machine.next_event_at() if self.machine is not None else math.inf
        if theirs < own:
            self.before_machine()
            self._advance(theirs)
        elif self._due:
            at, _, act = heapq.heappop(self._due)
            self._advance(at)
            act()
        self.after_step()

    def run_to(self, t: float) -> None:
        """Run all events before `t`, and move the clock there."""
        while min(self._next(), t) < t:
            self.step()
        self._advance(t)

    def _next(self) -> float:
        theirs = self.machine.next_event_at() if self.machine is not None else math.inf
        return min(self._due[0][0] if self._due else math.inf, theirs)

    def _advance(self, to: float) -> None:
        self.clock.t = max(self.clock.t, to)
        if self.machine is not None:
            self.machine.advance(self.clock.t)
