"""For entrances that wait on an event loop: no thread is held while something lasts.

A call that reads or writes rows runs in a thread for as long as it takes, which is short; between
two such calls nothing but a timer waits, and the bell of what this process commits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import DatabaseError, close_old_connections, connections

from switcher.records import changed

P = ParamSpec("P")
T = TypeVar("T")

# Another process's commits ring no bell here: the rows are looked at this often (rule 2).
LOOK_EVERY_S = 0.25


# Pools of our own, and two: a call that asks a host may take its 5 s, and enough of those would
# keep everyone else, the gateway's requests first, from reading a row.
_rows = ThreadPoolExecutor(6, thread_name_prefix="rows")
_hosts = ThreadPoolExecutor(24, thread_name_prefix="hosts")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what reads or writes rows and nothing else, in a thread of the pool: not in the one
    that all sync code of a request shares, where one slow call stalls all others."""
    return await _call(_rows, partial(function, *args, **kwargs))


async def in_host_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same for a call that also asks a host."""
    return await _call(_hosts, partial(function, *args, **kwargs))


async def _call(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    def call() -> T:
        # Nobody else does it for these threads: a connection that the database has closed
        # meanwhile would fail every call from then on.
        close_old_connections()
        try:
            return function()
        finally:
            close_old_connections()

    return await sync_to_async(call, thread_sensitive=False, executor=pool)()


class OwnThread:
    """A thread whose connection to the database stays open, for what looks at it all the time: to
    open one takes longer than the look. To be ended."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it there. After an error of the database the next call connects anew."""

        def call() -> T:
            try:
                return function(*args, **kwargs)
            except DatabaseError:
                connections.close_all()
                raise

        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def end(self) -> None:
        self._pool.submit(connections.close_all)
        self._pool.shutdown(wait=False)


class News:
    """Wakes one coroutine when something of a host was committed in this process."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def expect(self) -> None:
        """Forget what rang so far: before reading, so that nothing after it is missed."""
        self._rung.clear()

    async def wait(self, seconds: float = LOOK_EVERY_S) -> None:
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


def let_go() -> None:
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
