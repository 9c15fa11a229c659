"""This process's cached copy of all routes, which expires quickly.

A request costs no query, since it looks into the cache. Even with several processes this is safe
beside a switch, because of these five points:

1. While requests come, a task reads the database every REFRESH_INTERVAL_S, and at once when this
   process commits something. Before it reads, it reports that the process is alive
   (`gates.heartbeat`).
2. The cache may be used for VALID_S after a reading began, and for HEARTBEAT_VALID_S after the last
   heartbeat; after that, requests wait for the next reading. So a process that cannot reach the
   database, or was paused, forwards nothing.
3. A switch closes a host's gate by committing its state. Then it waits until every live process has
   reported (`gates.report`) that it has seen this, and how many requests it has in flight. It does
   not wait for a process that was not seen for DEAD_AFTER_S: by point 2, that one has already
   stopped forwarding.
4. Nothing else runs on the loop between looking into the cache and counting a request as in flight.
   So the reported number fits the cache that it is reported with.
5. A request that passed the gate may not be written yet when the gate closes: its connection is
   still being made. Such requests are counted separately, and the switch waits for them. In case
   the process was paused in between, it checks the cache once more just before it writes
   (`is_fresh`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from django.db import DatabaseError

from switcher.concurrency.threads import OwnThread, in_thread
from switcher.domain import inflight
from switcher.gateway.meter import Meter
from switcher.queries import gates as queries
from switcher.queries.change_marker import newest_entry
from switcher.queries.gates import Route, Routes
from switcher.records import changed, gates, usage
from switcher.records.leases import new_owner
from switcher.switching.waiting import is_shutting_down

log = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 0.05
RETRY_INTERVAL_S = 0.5  # after an error of the database
HEARTBEAT_INTERVAL_S = 1.0
VALID_S = 2.0
HEARTBEAT_VALID_S = 3.0  # below inflight.DEAD_AFTER_S by more than clocks differ
# For a fresh reading, before a request is refused: a process that was paused in the middle of a
# write holds SQLite's lock for that long.
REFRESH_TIMEOUT_S = 20.0
AWAKE_S = 10.0  # after the last request
USAGE_INTERVAL_S = 5.0


class RoutesUnavailable(Exception):
    """The routes could not be read in time: the database does not answer."""


class RouteCache:
    """The cache of one event loop. Its task runs while requests come, and ends by itself."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = new_owner()
        self._routes: Routes | None = None
        self._newest_entry = -1
        self._valid_until = self._heartbeat_at = float("-inf")
        self._used_at = 0.0
        self._reported: dict[int, tuple[int, int, int]] = {}
        self._thread: OwnThread
        self._refresh_now = asyncio.Event()
        self._change: asyncio.Future[None] = self._loop.create_future()
        self._read_at = float("-inf")
        self._reading: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self.meter = Meter()
        self._usage_written_at = 0.0

    async def routes(self, timeout_s: float = REFRESH_TIMEOUT_S) -> Routes:
        """Return the routes, read at most VALID_S ago. Raises RoutesUnavailable."""
        self._mark_used()
        if self._routes is None or self._used_at >= self._valid_until:
            try:
                async with asyncio.timeout(timeout_s):
                    while self._routes is None or self._loop.time() >= self._valid_until:
                        await self.next_change()
            except TimeoutError:
                raise RoutesUnavailable from None
        return self._routes

    def is_fresh(self, route: Route) -> bool:
        """Return whether a request that was let through on this route may still be sent."""
        if self._routes is None or self._loop.time() >= self._valid_until:
            return False
        return self._routes.by_name.get(route.host) == route

    async def next_change(self) -> None:
        """Wait until the routes have changed, or were read again after the cache had expired."""
        self._mark_used()
        await asyncio.shield(self._change)

    async def routes_as_of_now(self) -> Routes:
        """Return routes that were read after this call. Raises RoutesUnavailable."""
        asked_at = self._loop.time()
        self.refresh_soon()
        try:
            async with asyncio.timeout(REFRESH_TIMEOUT_S):
                while self._read_at < asked_at:
                    self._mark_used()
                    await asyncio.shield(self._reading)
        except TimeoutError:
            raise RoutesUnavailable from None
        return await self.routes()

    def refresh_soon(self) -> None:
        """Read again at once. Thread-safe."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._refresh_now.set)

    async def close(self) -> None:
        """End the task, write the counts, and report that this process forwards nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._write_usage()
        await self._report_asleep()

    def _mark_used(self) -> None:
        self._used_at = self._loop.time()
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run(), name="route-cache")

    async def _run(self) -> None:
        changed.connect(self._on_change, weak=False, dispatch_uid=self._process)
        try:
            while True:
                await self._refresh_while_used()
                self._expire()
                await self._write_usage()
                await self._report_asleep()
                if not self._is_used():  # no request came meanwhile
                    return
        finally:
            changed.disconnect(dispatch_uid=self._process)
            self._expire()

    def _is_used(self) -> bool:
        return self._loop.time() - self._used_at < AWAKE_S or inflight.total() > 0

    async def _refresh_while_used(self) -> None:
        self._thread = OwnThread("route-cache")
        try:
            while self._is_used():
                self._refresh_now.clear()
                pause_s = REFRESH_INTERVAL_S if await self._refresh() else RETRY_INTERVAL_S
                if self._loop.time() - self._usage_written_at >= USAGE_INTERVAL_S:
                    await self._write_usage()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._refresh_now.wait()
        finally:
            self._thread.end()

    def _expire(self) -> None:
        """Expire the cache because no requests come: no switch waits for an idle process."""
        self._valid_until = self._heartbeat_at = float("-inf")
        self._reported = {}

    def _on_change(self, sender: object, **_: object) -> None:
        if sender != "reading":
            self.refresh_soon()

    async def _refresh(self) -> bool:
        """Read the routes and report the closed gates. Return False if the database fails."""
        began = self._loop.time()
        heartbeat = began - self._heartbeat_at >= HEARTBEAT_INTERVAL_S
        try:
            processes, newest, read = await self._thread.call(
                _read, self._process, heartbeat, self._newest_entry
            )
        except DatabaseError as exc:
            log.warning("The gateway cannot read its routes: %s", exc)
            return False
        if heartbeat:
            self.meter.processes, self._heartbeat_at = processes, began
        was_expired = began >= self._valid_until
        self._routes, self._newest_entry = read or self._routes, newest
        self._valid_until = min(began + VALID_S, self._heartbeat_at + HEARTBEAT_VALID_S)
        if read is not None or was_expired or is_shutting_down():
            self._change = self._wake_waiters(self._change)
        self._read_at, self._reading = began, self._wake_waiters(self._reading)
        return await self._report_gates()

    def _wake_waiters(self, waited_for: asyncio.Future[None]) -> asyncio.Future[None]:
        """Wake all waiters, and return the future that the next ones wait for."""
        waited_for.set_result(None)
        return self._loop.create_future()

    async def _report_gates(self) -> bool:
        """Report the closed gates if they have changed. Return False if that fails."""
        assert self._routes is not None
        closed = {
            route.host_id: (
                route.gate,
                inflight.in_flight(route.host_id),
                inflight.unsent(route.host_id),
            )
            for route in self._routes.by_name.values()
            if route.gate
        }
        if closed == self._reported:
            return True
        try:
            await self._thread.call(gates.report, self._process, closed)
        except DatabaseError as exc:
            log.warning("The gateway cannot report its gates: %s", exc)
            return False
        self._reported = closed
        return True

    async def _report_asleep(self) -> None:
        with suppress(DatabaseError):
            await in_thread(gates.remove_process, self._process)

    async def _write_usage(self) -> None:
        self._usage_written_at = self._loop.time()
        batch = self.meter.take()
        if not batch:
            return
        try:
            await in_thread(usage.add_usage, batch, datetime.now(UTC))
        except DatabaseError as exc:
            self.meter.put_back(batch)
            log.warning("The gateway cannot write its usage counts and will retry: %s", exc)


def _read(process: str, heartbeat: bool, known_entry: int) -> tuple[int, int, Routes | None]:
    """Return the number of live processes (0 without a heartbeat), the number of the newest audit
    entry, and the routes; None instead of the routes if that entry is the known one.
    """
    processes = gates.heartbeat(process) if heartbeat else 0
    newest = newest_entry()
    return processes, newest, queries.routes() if newest != known_entry else None


_caches: WeakKeyDictionary[asyncio.AbstractEventLoop, RouteCache] = WeakKeyDictionary()


def current() -> RouteCache:
    """Return the cache of the running event loop."""
    loop = asyncio.get_running_loop()
    cache = _caches.get(loop)
    if cache is None:
        cache = _caches[loop] = RouteCache()
    return cache


async def close_current() -> None:
    """Close the cache of the running event loop, at the end of its server."""
    cache = _caches.pop(asyncio.get_running_loop(), None)
    if cache is not None:
        await cache.close()
