"""Runs the watcher's actions in threads of their own, so that no reading waits for them.

At most one action of a kind runs on a host at a time, and it is not repeated until its pause ends.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from django.db import connections

from switcher.concurrency.loop import Loop
from switcher.domain.clock import Clock, system
from switcher.domain.errors import HostBusy, SwitcherError

log = logging.getLogger(__name__)

BUSY_PAUSE_S = 2.0
RETRY_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do on a host. `key` identifies it; it is not repeated within `pause_s`."""

    key: Hashable
    what: str  # for the log
    pause_s: float
    work: Callable[[], object]


class ActionQueue:
    """Runs actions. Call `start` once, `submit` from any thread, and `stop` once."""

    def __init__(self, clock: Clock = system, threads: int = 2) -> None:
        self._clock = clock
        self._queue: deque[Action] = deque()
        self._not_before: dict[Hashable, float] = {}
        self._lock = threading.Lock()
        self._loops = [Loop(f"watch-act-{n}", self._work, RETRY_INTERVAL_S) for n in range(threads)]

    def start(self) -> None:
        for loop in self._loops:
            loop.start(after_s=math.inf)

    def stop(self, patience_s: float = 0.0) -> bool:
        """Start no more actions and return whether all threads have ended. The calls of a running
        action take a few seconds at most."""
        for loop in self._loops:
            loop.stop()
        ended = [loop.stop(patience_s) for loop in self._loops]
        return all(ended)

    def submit(self, actions: Iterable[Action]) -> None:
        """Queue these actions, except those in progress and those whose pause has not ended."""
        due = [action for action in actions if self._is_due(action)]
        self._queue.extend(due)
        if due:
            for loop in self._loops:
                loop.wake()

    def _is_due(self, action: Action) -> bool:
        with self._lock:
            now = self._clock.monotonic()
            if now < self._not_before.get(action.key, now):
                return False
            self._not_before = {k: t for k, t in self._not_before.items() if t > now}
            self._not_before[action.key] = math.inf  # until it is done
            return True

    def _work(self) -> float:
        """Run all actions that were submitted, then wait for more."""
        while (action := self._next()) is not None:
            self._do(action)
        connections.close_all()
        return math.inf

    def _next(self) -> Action | None:
        if self._loops[-1].stopping:
            return None
        try:
            return self._queue.popleft()
        except IndexError:
            return None

    def _do(self, action: Action) -> None:
        pause_s = action.pause_s
        try:
            action.work()
        except HostBusy as exc:
            pause_s = min(pause_s, BUSY_PAUSE_S)  # it was not started
            log.info("%s: %s", action.what, exc.text)
        except SwitcherError as exc:
            log.info("%s: %s", action.what, exc.text)
        except Exception:
            # One action must not keep the next from being done; the Loop would wait.
            log.exception("%s: unexpected error", action.what)
            connections.close_all()
        finally:
            with self._lock:
                self._not_before[action.key] = self._clock.monotonic() + pause_s
