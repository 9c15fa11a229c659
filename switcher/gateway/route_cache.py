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

An outage of the database need not stop inference, as hosts go on without it. On PostgreSQL it
does: other processes may still reach the database and begin a switch that this one would not see,
so it stops by point 2. On SQLite all processes are on one machine. There, a process whose reading
or heartbeat fails (the disk is full, somebody locks the database) raises a flag for each host
(`concurrency.outage_flags`), and forwards to it on the routes that it read last, marked as stale. A
worker raises a flag too before it claims a switch. Neither begins while the other's flag is raised,
and routes that were read before a switch are recognised as outdated. So no switch is under way on a
host, and none can begin, while any process forwards to it on stale routes. The worker waits until
all have fresh ones, from when on points 1 to 5 hold. If a switch was under way when the outage
began, requests to its host wait for the database.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from weakref import WeakKeyDictionary

from django.db import DatabaseError

from switcher.concurrency import outage_flags
from switcher.concurrency.outage_flags import Flag
from switcher.concurrency.threads import OwnThread
from switcher.domain import inflight, vitals
from switcher.gateway.meter import Meter
from switcher.gateway.reports import HEARTBEAT_VALID_S, HUNG_AFTER_S, RETRY_INTERVAL_S, Reports
from switcher.queries import gates as queries
from switcher.queries.change_marker import newest_entry
from switcher.queries.database import reason_of
from switcher.queries.gates import Route, Routes
from switcher.records import changed
from switcher.records.leases import new_owner
from switcher.switching import wake
from switcher.switching.waiting import is_shutting_down

log = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 0.05
VALID_S = 2.0
# For a fresh reading, before a request is refused: a process that was paused in the middle of a
# write holds SQLite's lock for that long.
REFRESH_TIMEOUT_S = 20.0
VITAL_S = 10.0  # for which a word about the routes' state is valid
AWAKE_S = 10.0  # after the last request
# When an outage begins, older routes are not used: keys may have been turned off since.
LAST_KNOWN_S = 60.0

Versions = dict[int, int]  # outage_flags.version_of, by host id


class RoutesUnavailable(Exception):
    """The routes could not be read in time. The text is the reason."""


class RouteCache:
    """The cache of one event loop. Its task runs while requests come, and ends by itself."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = new_owner()
        self._routes: Routes | None = None
        self._versions: Versions = {}
        self._newest_entry = -1
        self._valid_until = float("-inf")
        self._used_at = 0.0
        self._thread: OwnThread
        self._refresh_now = asyncio.Event()
        self._change: asyncio.Future[None] = self._loop.create_future()
        self._read_at = float("-inf")
        self._read_began = float("-inf")
        self._read_failure = ""
        self._reading: asyncio.Future[None] = self._loop.create_future()
        self._read_task: asyncio.Task[bool] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stale: Routes | None = None
        self._flags: dict[int, Flag] = {}  # of the hosts that stale routes may be used for
        self.meter = Meter()
        self._reports = Reports(self._process, self.meter)

    async def routes(self, timeout_s: float = REFRESH_TIMEOUT_S) -> Routes:
        """Return the routes, read at most VALID_S ago, or stale ones during an outage. Raises
        RoutesUnavailable."""
        self._mark_used()
        if (routes := self._usable()) is None:
            try:
                async with asyncio.timeout(timeout_s):
                    while (routes := self._usable()) is None:
                        await self.next_change()
            except TimeoutError:
                raise RoutesUnavailable(self.trouble) from None
        return routes

    def is_fresh(self, route: Route) -> bool:
        """Return whether a request that was let through on this route may still be sent."""
        routes = self._usable()
        return routes is not None and routes.by_name.get(route.host) == route

    async def next_change(self) -> None:
        """Wait until the routes have changed, or were read again after the cache had expired."""
        self._mark_used()
        await asyncio.shield(self._change)

    async def routes_as_of_now(self) -> Routes:
        """Return routes that were read after this call. Raises RoutesUnavailable."""
        asked_at = self._loop.time()
        self.refresh_soon()
        # During an outage the next reading is likely to fail as well.
        timeout_s = REFRESH_TIMEOUT_S if self._stale is None else 2 * HUNG_AFTER_S
        try:
            async with asyncio.timeout(timeout_s):
                while self._read_at < asked_at:
                    self._mark_used()
                    await asyncio.shield(self._reading)
        except TimeoutError:
            raise RoutesUnavailable(self.trouble) from None
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
        await self._reports.close()

    def _usable(self) -> Routes | None:
        return self._routes if self._loop.time() < self._valid_until else self._stale

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
                await self._reports.sleep()
                if not self._is_used():  # no request came meanwhile
                    return
        finally:
            changed.disconnect(dispatch_uid=self._process)
            self._reports.end_thread()
            self._expire()
            self._end_outage()
            vitals.forget("gateway")

    def _is_used(self) -> bool:
        is_recent = self._loop.time() - self._used_at < AWAKE_S
        # The last routes known before an outage would be too old after a sleep.
        return is_recent or inflight.total() > 0 or bool(self._flags)

    async def _refresh_while_used(self) -> None:
        self._thread = OwnThread("route-cache")
        self._reports.open()
        try:
            while self._is_used():
                self._refresh_now.clear()
                pause_s = REFRESH_INTERVAL_S if await self._refresh() else RETRY_INTERVAL_S
                self._update_outage()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._refresh_now.wait()
        finally:
            self._thread.end()

    def _expire(self) -> None:
        """Expire the cache because no requests come: no switch waits for an idle process."""
        self._valid_until = float("-inf")
        self._reports.expire()

    def _on_change(self, sender: object, **_: object) -> None:
        if sender != "reading":
            self.refresh_soon()

    # --- reading -------------------------------------------------------------------------------

    async def _refresh(self) -> bool:
        """Write the heartbeat, read the routes, and report the closed gates. Return False if the
        database cannot be read."""
        self._reports.start()
        if not self._reports.is_alive and not self._reports.trouble:
            await self._reports.wait()  # a reading that began before it counts for nothing
        if self._read_task is None or self._read_task.done():
            self._read_task = self._loop.create_task(self._read(), name="route-reading")
        await asyncio.wait({self._read_task}, timeout=HUNG_AFTER_S)
        if not (self._read_task.done() and self._read_task.result()):
            return False
        self._reports.closed = self._closed_gates()
        self._reports.start()
        return True

    async def _read(self) -> bool:
        """Read the routes. Return False if the database fails."""
        began = self._read_began = self._loop.time()
        hosts = [route.host_id for route in self._routes.by_name.values()] if self._routes else []
        try:
            newest, read, versions = await self._thread.call(_read, self._newest_entry, hosts)
        except DatabaseError as exc:
            if not self._read_failure:
                log.warning("The gateway cannot read its routes: %s", exc)
            self._read_failure = reason_of(exc)
            return False
        was_expired = began >= self._valid_until
        self._read_failure = ""
        self._routes, self._newest_entry = read or self._routes, newest
        self._versions = versions
        if began >= self._reports.alive_since:
            heartbeat_until = self._reports.heartbeat_at + HEARTBEAT_VALID_S
            self._valid_until = min(began + VALID_S, heartbeat_until)
        if read is not None or was_expired or is_shutting_down():
            self._change = self._wake_waiters(self._change)
        self._read_at, self._reading = began, self._wake_waiters(self._reading)
        return True

    def _wake_waiters(self, waited_for: asyncio.Future[None]) -> asyncio.Future[None]:
        """Wake all waiters, and return the future that the next ones wait for."""
        waited_for.set_result(None)
        return self._loop.create_future()

    def _closed_gates(self) -> dict[int, tuple[int, int, int]]:
        assert self._routes is not None
        return {
            route.host_id: (
                route.gate,
                inflight.in_flight(route.host_id),
                inflight.unsent(route.host_id),
            )
            for route in self._routes.by_name.values()
            if route.gate
        }

    # --- an outage of the database -------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """Return why the database cannot be used; empty if it can."""
        is_reading = self._read_task is not None and not self._read_task.done()
        if is_reading and self._loop.time() - self._read_began > HUNG_AFTER_S:
            return self._read_failure or "the database does not answer"
        return self._read_failure or self._reports.trouble

    def _update_outage(self) -> None:
        """Begin or continue to use stale routes during an outage, or end that."""
        trouble, now = self.trouble, self._loop.time()
        if not trouble and now < self._valid_until:
            self._end_outage()
        elif trouble and now >= self._valid_until - HUNG_AFTER_S:
            self._use_stale_routes(trouble)
        what = "forwards on stale routes" if self._stale else "cannot refresh its routes"
        vitals.note("gateway", f"{what}: {trouble}" if trouble else "", VITAL_S)

    def _use_stale_routes(self, trouble: str) -> None:
        if self._routes is None or (
            self._stale is None and self._loop.time() - self._read_at > LAST_KNOWN_S
        ):
            return
        for route in self._routes.by_name.values():
            version = self._versions.get(route.host_id, outage_flags.UNKNOWN_VERSION)
            if route.host_id not in self._flags:
                flag = outage_flags.raise_for_forwarding(route.host_id, version)
                if flag is not None:
                    self._flags[route.host_id] = flag
        if not self._flags:
            return
        if self._stale is None:
            log.warning("Requests are forwarded on the last known routes: %s", trouble)
        stale = self._routes.as_stale(frozenset(self._flags))
        if stale != self._stale:
            self._stale = stale
            self._change = self._wake_waiters(self._change)

    def _end_outage(self) -> None:
        if self._stale is None:
            return
        self._stale = None
        for flag in self._flags.values():
            flag.lower()
        self._flags.clear()
        self._change = self._wake_waiters(self._change)
        wake.worker()  # a switch that was requested meanwhile waits for the flags
        log.info("The routes are fresh again.")


def _read(known_entry: int, hosts: list[int]) -> tuple[int, Routes | None, Versions]:
    """Return the number of the newest audit entry; the routes, or None if that entry is the known
    one; and the versions of the hosts, from before the reading."""
    versions = {host_id: outage_flags.version_of(host_id) for host_id in hosts}
    newest = newest_entry()
    return newest, queries.routes() if newest != known_entry else None, versions


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
