"""A background loop: one daemon thread that calls a function again and again until it is stopped.

The function examines the current state on each call instead of handling events. So a wake-up only
makes the next call come sooner, and a later call makes up for one that failed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from weakref import WeakSet

from django.db import connections

log = logging.getLogger(__name__)

HUNG_AFTER_S = 60.0  # a locked database makes a tick wait for 20 s, and a hung host for less
_started: WeakSet[Loop] = WeakSet()


def problems() -> dict[str, str]:
    """Return what is wrong with each loop that runs here, by name; empty if nothing is."""
    return {loop.name: loop.problem for loop in list(_started) if not loop.stopping}


class Loop:
    """A loop that calls `tick` at once, then `every_s` seconds after each call has returned.

    `tick` may return another number of seconds until its next call; `math.inf` waits for a wake-up.
    If it raises, that is logged and counted in `failures`, the thread's database connections are
    closed, and the next call comes after `every_s`, wake-up or not. `pause_s` is the minimum time
    between two calls. `at_end` is called once in the thread, after the last tick.

    The thread is a daemon, since a thread of an executor would keep the process from exiting.
    """

    def __init__(
        self,
        name: str,
        tick: Callable[[], float | None],
        every_s: float,
        *,
        pause_s: float = 0.0,
        at_end: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self.every_s = every_s
        self.failures = 0  # in a row
        self._tick = tick
        self._pause_s = pause_s
        self._at_end = at_end
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._tick_began: float | None = None

    def start(self, after_s: float = 0.0) -> None:
        """Start the thread; its first tick comes after `after_s`."""
        self._first_after_s = after_s
        _started.add(self)
        self._thread.start()

    def wake(self) -> None:
        """Make the next tick come now. Thread-safe."""
        self._woken.set()

    def stop(self, patience_s: float = 0.0) -> bool:
        """Start no further tick, wait at most `patience_s` for the thread to end, and return
        whether it has. Thread-safe; may be called repeatedly.
        """
        self._stopping.set()
        self._woken.set()
        if self.alive and self._thread is not threading.current_thread():
            self._thread.join(patience_s)
        return not self.alive

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def problem(self) -> str:
        """Return what is wrong with the loop; empty if nothing is."""
        began = self._tick_began
        if not self.alive:
            return "has ended"
        if began is not None and time.monotonic() - began > HUNG_AFTER_S:
            return "hangs"
        return f"has failed {self.failures} times in a row" if self.failures else ""

    def tick(self) -> float:
        """Call the function once, in the current thread; return the seconds until it should be
        called again. The loop's thread does just this; tests may call it without starting a thread.
        """
        self._tick_began = time.monotonic()
        try:
            wait_s = self._tick()
        except Exception:
            self._note_failure()
            return self.every_s
        finally:
            self._tick_began = None
        self.failures = 0
        return self.every_s if wait_s is None else wait_s

    def _run(self) -> None:
        wait_s = self._first_after_s
        try:
            while not self._wait(wait_s):
                wait_s = self.tick()
                pause_s = self.every_s if self.failures else self._pause_s
                self._stopping.wait(pause_s)
                wait_s = max(0.0, wait_s - pause_s)
            self._end()
        finally:
            connections.close_all()

    def _wait(self, seconds: float) -> bool:
        """Wait until a tick is due; return True if the loop stops instead."""
        self._woken.wait(min(seconds, threading.TIMEOUT_MAX))
        self._woken.clear()  # before the tick reads anything, so that no later wake-up is lost
        return self.stopping

    def _end(self) -> None:
        try:
            if self._at_end is not None:
                self._at_end()
        except Exception:
            self._note_failure()

    def _note_failure(self) -> None:
        self.failures += 1
        log.exception(
            "%s failed (%d in a row)",
            self.name,
            self.failures,
            extra={"action": "loop-failed", "loop": self.name},
        )
        # A broken connection never works again; the next query opens a new one.
        connections.close_all()
