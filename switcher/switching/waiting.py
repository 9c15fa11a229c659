"""Wait on an event loop until something about a host changes, without holding a thread.

For entry points that answer when a switch has ended. They read rows in a thread for a moment; in
between, only a timer and this process's commits can wake them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from switcher.records import changed

# Commits of other processes wake nobody here, so the rows are read this often (rule 2).
POLL_INTERVAL_S = 0.25


class HostChanges:
    """Wakes one coroutine when this process commits a change of a host."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def clear(self) -> None:
        """Forget earlier changes. Call it before reading, so that no later change is missed."""
        self._changed.clear()

    async def wait(self, seconds: float = POLL_INTERVAL_S) -> None:
        """Wait for a change, but at most this many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def wake(self) -> None:
        """Wake the coroutine. Thread-safe; never raises, since the caller has already committed."""
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:
            pass  # the loop has ended, and the coroutine with it


_lock = threading.Lock()
_waiting: set[HostChanges] = set()
_shutting_down = threading.Event()


@contextmanager
def changes_of(host: str) -> Iterator[HostChanges]:
    """Watch the changes of a host for as long as the block lasts."""
    changes = HostChanges(host)
    with _lock:
        _waiting.add(changes)
    try:
        yield changes
    finally:
        with _lock:
            _waiting.discard(changes)


def stop_waiting() -> None:
    """Wake everyone because the server shuts down. From now on, nobody waits for a change."""
    _shutting_down.set()
    _wake(lambda changes: True)


def is_shutting_down() -> bool:
    """Return whether those who wait should answer at once, with the state as it is now."""
    return _shutting_down.is_set()


def _wake(is_meant: Callable[[HostChanges], bool]) -> None:
    with _lock:
        found = [changes for changes in _waiting if is_meant(changes)]
    for changes in found:
        changes.wake()


def _on_change(sender: object, host: str = "", **_: object) -> None:
    if sender != "reading":  # a reading, each second, moves no switch
        _wake(lambda changes: changes.host == host)


changed.connect(_on_change, dispatch_uid="switcher.switching.waiting")
