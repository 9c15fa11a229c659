"""Where the watcher acts: a few threads of their own, so that no reading waits for it.

One act of a kind on a host at a time, and not again before its pause is over. Nothing begins once
the process is stopping.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from django.db import close_old_connections, connections

from switcher.domain.clock import Clock, system
from switcher.domain.errors import HostBusy, SwitcherError

log = logging.getLogger(__name__)

BUSY_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Act:
    """Something to do on a host. `key` names it; it is not done again within `pause_s`."""

    key: Hashable
    what: str  # for the log
    pause_s: float
    work: Callable[[], object]


class Acts:
    """`start` once, `stop` once; `hand_out` from any thread."""

    def __init__(self, clock: Clock = system, hands: int = 2) -> None:
        self._clock = clock
        self._jobs: queue.SimpleQueue[Act | None] = queue.SimpleQueue()
        self._not_before: dict[Hashable, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.threads = [
            threading.Thread(target=self._work_on, name=f"watch-act-{n}", daemon=True)
            for n in range(hands)
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing more. What is under way makes calls of a few seconds at most."""
        self._stop.set()
        for _ in self.threads:
            self._jobs.put(None)

    def hand_out(self, acts: Iterable[Act]) -> None:
        """Have them done soon; one that is under way or was done just now is left out."""
        for act in acts:
            if self._is_due(act):
                self._jobs.put(act)

    def _is_due(self, act: Act) -> bool:
        with self._lock:
            now = self._clock.monotonic()
            if self._stop.is_set() or now < self._not_before.get(act.key, now):
                return False
            self._not_before = {k: t for k, t in self._not_before.items() if t > now}
            self._not_before[act.key] = float("inf")  # until it is done
            return True

    def _work_on(self) -> None:
        while (act := self._jobs.get()) is not None:
            if self._stop.is_set():
                break
            pause_s = act.pause_s
            try:
                close_old_connections()
                act.work()
            except HostBusy as exc:
                pause_s = min(pause_s, BUSY_PAUSE_S)  # it was not even begun
                log.info("%s: %s", act.what, exc.text)
            except SwitcherError as exc:
                log.info("%s: %s", act.what, exc.text)
            except Exception:
                log.exception("%s: unexpected", act.what)
            finally:
                with self._lock:
                    self._not_before[act.key] = self._clock.monotonic() + pause_s
        connections.close_all()
