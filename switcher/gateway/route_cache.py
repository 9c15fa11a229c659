"""This process's table of routes: read once for many requests, and never trusted for long.

A request costs no query: it looks into the table. What makes that safe with several processes is
that the table and the switch agree on when it may be used:

1. While requests come, a task looks at the database each LOOK_S and at once when this process
   commits something. It says that the process lives (`gates.beat`) before it reads.
2. The table may be used for VALID_S after its reading began, and BEAT_VALID_S after the last beat;
   after that requests wait for the next reading. A process that cannot reach the database, or was
   paused, passes nothing on.
3. A switch closes a host's gate by committing its state, then waits until every living process has
   said that it has seen that (`gates.tell`), and how many requests it has under way. A process
   that was not seen for DEAD_AFTER_S is not waited for: by 2 it has stopped before.
4. Between looking into the table and counting a request nothing else runs on the loop, so what is
   told of the count is true of the table it is told with.
5. A request that was let through may still be on its way to the host when the gate closes: its
   connection is made, its body written. Such are counted apart, and the switch waits for them.
   A process that was paused there asks the table once more just before it writes (`holds`).
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
from switcher.switching.waiting import is_ending
from switcher.switching.worker import new_owner

log = logging.getLogger(__name__)

LOOK_S = 0.05
BEAT_S = 1.0
VALID_S = 2.0
BEAT_VALID_S = 3.0  # less than gates.DEAD_AFTER_S by more than a clock is read wrong
# For a fresh reading, before a request is refused: who was paused in the middle of a write holds
# SQLite's lock for as long.
PATIENCE_S = 20.0
AWAKE_S = 10.0  # after the last request
AGAIN_S = 0.5  # after an error of the database
FLUSH_S = 5.0


class Stale(Exception):
    """No reading came in time: the database does not answer."""


class Table:
    """The table of one event loop. Its task runs while requests come, and ends by itself."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = new_owner()
        self._routes: Routes | None = None
        self._newest = -1
        self._valid_until = self._beat_at = float("-inf")
        self._used_at = 0.0
        self._told: dict[int, tuple[int, int, int]] = {}
        self._thread: OwnThread
        self._poke = asyncio.Event()
        self._turn: asyncio.Future[None] = self._loop.create_future()
        self._looked_at = float("-inf")
        self._look_over: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self.meter = Meter()
        self._flushed_at = 0.0

    async def routes(self, seconds: float = PATIENCE_S) -> Routes:
        """The routes, fresh. Raises Stale where the database does not answer for `seconds`."""
        self._used_at = self._loop.time()
        self._wake()
        if self._routes is None or self._used_at >= self._valid_until:
            try:
                async with asyncio.timeout(seconds):
                    while self._routes is None or self._loop.time() >= self._valid_until:
                        await self.next_turn()
            except TimeoutError:
                raise Stale from None
        return self._routes

    def holds(self, route: Route) -> bool:
        """Whether a request that was let through on this route may still go to the host."""
        if self._routes is None or self._loop.time() >= self._valid_until:
            return False
        return self._routes.by_name.get(route.host) == route

    async def next_turn(self) -> None:
        """Wait until the table has changed or was read again after it was too old."""
        self._used_at = self._loop.time()
        self._wake()
        await asyncio.shield(self._turn)

    async def routes_after_now(self) -> Routes:
        """The routes as of now or later, where a moment ago is not enough. Raises Stale."""
        asked_at = self._loop.time()
        self.poke()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self._looked_at < asked_at:
                    self._used_at = self._loop.time()
                    self._wake()
                    await asyncio.shield(self._look_over)
        except TimeoutError:
            raise Stale from None
        return await self.routes()

    def poke(self) -> None:
        """Look again at once: from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._poke.set)

    async def close(self) -> None:
        """Say that this process passes nothing on any more, and end the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()
        with suppress(DatabaseError):
            await in_thread(gates.leave, self._name)

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._keep(), name="gateway-table")

    async def _keep(self) -> None:
        changed.connect(self._on_change, weak=False, dispatch_uid=self._name)
        try:
            while True:
                await self._while_used()
                self._forget()
                await self._flush()
                with suppress(DatabaseError):
                    await in_thread(gates.leave, self._name)
                if not self._in_use():  # nobody came while it was said
                    return
        finally:
            changed.disconnect(dispatch_uid=self._name)
            self._forget()

    def _in_use(self) -> bool:
        return self._loop.time() - self._used_at < AWAKE_S or inflight.total() > 0

    async def _while_used(self) -> None:
        self._thread = OwnThread("gateway-table")
        try:
            while self._in_use():
                self._poke.clear()
                pause = LOOK_S if await self._look() else AGAIN_S
                if self._loop.time() - self._flushed_at >= FLUSH_S:
                    await self._flush()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._poke.wait()
        finally:
            self._thread.end()

    async def _flush(self) -> None:
        """Hand over what was counted."""
        self._flushed_at = self._loop.time()
        batch = self.meter.take()
        if not batch:
            return
        try:
            await in_thread(usage.add, batch, datetime.now(UTC))
        except DatabaseError as exc:
            self.meter.put_back(batch)
            log.warning("the gateway cannot write what it counted; it tries again: %s", exc)

    def _forget(self) -> None:
        """Asleep, it is not waited for: so it must not be used any more either."""
        self._valid_until = self._beat_at = float("-inf")
        self._told = {}

    def _on_change(self, sender: object, **_: object) -> None:
        if sender != "reading":
            self.poke()

    async def _look(self) -> bool:
        began = self._loop.time()
        beats = began - self._beat_at >= BEAT_S
        try:
            processes, newest, read = await self._thread.call(
                _read, self._name, beats, self._newest
            )
        except DatabaseError as exc:
            log.warning("the gateway cannot read its routes: %s", exc)
            return False
        if beats:
            self.meter.processes, self._beat_at = processes, began
        fresh = self._routes if read is None else read
        was_stale = began >= self._valid_until
        moved = fresh is not self._routes
        self._routes, self._newest = fresh, newest
        self._valid_until = min(began + VALID_S, self._beat_at + BEAT_VALID_S)
        if moved or was_stale or is_ending():
            self._turn = self._next(self._turn)
        self._looked_at, self._look_over = began, self._next(self._look_over)
        return await self._tell()

    def _next(self, now: asyncio.Future[None]) -> asyncio.Future[None]:
        """Let go who waits for this, and give what the next ones wait for."""
        now.set_result(None)
        return self._loop.create_future()

    async def _tell(self) -> bool:
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
        if closed == self._told:
            return True
        try:
            await self._thread.call(gates.tell, self._name, closed)
        except DatabaseError as exc:
            log.warning("the gateway cannot tell its gates: %s", exc)
            return False
        self._told = closed
        return True


def _read(name: str, beats: bool, known: int) -> tuple[int, int, Routes | None]:
    """How many processes live, where this one has said that it does; the newest entry; and the
    routes, where it is not the known one."""
    processes = gates.beat(name) if beats else 0
    newest = newest_entry()
    return processes, newest, queries.routes() if newest != known else None


_tables: WeakKeyDictionary[asyncio.AbstractEventLoop, Table] = WeakKeyDictionary()


def table() -> Table:
    """The table of this event loop."""
    loop = asyncio.get_running_loop()
    found = _tables.get(loop)
    if found is None:
        found = _tables[loop] = Table()
    return found


async def close_tables() -> None:
    """Close this loop's table, at the end of its server."""
    found = _tables.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()
