"""Thread pools for coroutines, and single threads that keep their database connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import DatabaseError, close_old_connections, connections

P = ParamSpec("P")
T = TypeVar("T")

# Two pools: a call to a host may take 5 s, and enough of those would block all reads of rows, above
# all those of the gateway's requests.
_rows = ThreadPoolExecutor(6, thread_name_prefix="rows")
_hosts = ThreadPoolExecutor(24, thread_name_prefix="hosts")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that only reads or writes rows, in a pool thread. In the one thread that all
    synchronous code shares, a slow call would stall all others."""
    return await _call(_rows, partial(function, *args, **kwargs))


async def in_host_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that also calls a host, in a thread of a separate pool."""
    return await _call(_hosts, partial(function, *args, **kwargs))


async def _call(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    def call() -> T:
        # Django closes stale connections only around requests: without this, a connection that
        # the database has closed would fail every later call in its thread.
        close_old_connections()
        try:
            return function()
        finally:
            close_old_connections()

    return await sync_to_async(call, thread_sensitive=False, executor=pool)()


class OwnThread:
    """A thread that keeps its database connection open, for code that queries constantly: opening a
    connection takes longer than the query. Call `end` when done.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the thread. After a database error the next call reconnects."""

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
