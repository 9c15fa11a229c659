"""For entrances that wait on an event loop: no thread is held while something lasts.

A call that reads or writes rows runs in a thread for as long as it takes, which is short; between
two such calls nothing but a timer waits, and the bell of what this process commits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from switcher.records import changed

# Another process's commits ring no bell here: the rows are looked at this often (rule 2).
LOOK_INTERVAL_S = 0.25


class News:
    """Wakes one coroutine when something of a host was committed in this process."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def expect(self) -> None:
        """Forget what rang so far: before reading, so that nothing after it is missed."""
        self._rung.clear()

    async def wait(self, seconds: float = LOOK_INTERVAL_S) -> None:
        """Until it rings, `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            pass

    def ring(self) -> None:
        """From any thread. Never raises: it is called by whoever has just committed."""
        try:
            self._loop.call_soon_threadsafe(self._rung.set)
        except RuntimeError:
            pass  # the loop has ended, and with it who waited


_lock = threading.Lock()
_listening: set[News] = set()
_ending = threading.Event()


def release_waiters() -> None:
    """The server ends: nobody is to wait any longer for what goes on elsewhere."""
    _ending.set()
    with _lock:
        listening = list(_listening)
    for news in listening:
        news.ring()


def is_ending() -> bool:
    """Whether who waits is to answer with what is true now."""
    return _ending.is_set()


@contextmanager
def news_of(host: str) -> Iterator[News]:
    """News of this host while the block lasts."""
    news = News(host)
    with _lock:
        _listening.add(news)
    try:
        yield news
    finally:
        with _lock:
            _listening.discard(news)


def _ring(sender: object, host: str = "", **_: object) -> None:
    if sender == "reading":  # what a host was seen to hold, each second: moves no switch
        return
    with _lock:
        listening = [n for n in _listening if n.host == host]
    for news in listening:
        news.ring()


changed.connect(_ring, dispatch_uid="switcher.switching.waiting")
