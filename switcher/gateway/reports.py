"""Writes what this process reports to the others: its heartbeat, the closed gates that it has seen,
and its usage counts. One thread, so that a locked database delays no reading of the routes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

from django.db import DatabaseError

from switcher.concurrency.threads import OwnThread, in_thread
from switcher.gateway.meter import Meter
from switcher.queries.database import reason_of
from switcher.records import gates, usage

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_VALID_S = 3.0  # below inflight.DEAD_AFTER_S by more than clocks differ
RETRY_INTERVAL_S = 0.5  # after an error of the database
USAGE_INTERVAL_S = 5.0
HUNG_AFTER_S = 1.0

ClosedGates = dict[int, tuple[int, int, int]]  # see gates.report


class Reports:
    """The reports of one process. Call `open` and `sleep` around its work, and `close` once."""

    def __init__(self, process: str, meter: Meter) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._meter = meter
        self._thread: OwnThread | None = None
        self._writing: asyncio.Task[None] | None = None
        self._began = self._not_before = self._usage_written_at = float("-inf")
        self.heartbeat_at = float("-inf")  # when the last successful one began
        # Other processes have taken this one for alive since then, without a break.
        self.alive_since = float("inf")
        self.failure = ""
        self.closed: ClosedGates = {}
        self._reported: ClosedGates = {}

    @property
    def is_alive(self) -> bool:
        """Return whether other processes take this one for alive."""
        return self._loop.time() < self.heartbeat_at + HEARTBEAT_VALID_S

    @property
    def trouble(self) -> str:
        """Return why nothing can be written now; empty if it can."""
        if self._is_writing() and self._loop.time() - self._began > HUNG_AFTER_S:
            return self.failure or "the database does not answer"
        return self.failure

    def open(self) -> None:
        self._thread = OwnThread("gateway-reports")

    def start(self) -> None:
        """Begin to write what is due, unless a write is under way or has just failed."""
        now = self._loop.time()
        if not self._is_writing() and now >= self._not_before and self._next_due() is not None:
            self._began = now
            self._writing = self._loop.create_task(self._write_due(), name="gateway-reports")

    async def wait(self) -> None:
        """Wait until nothing is due, at most HUNG_AFTER_S."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=HUNG_AFTER_S)

    async def sleep(self) -> None:
        """Report that this process forwards nothing until the next `open`."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        self.end_thread()
        self.expire()
        await self._write_usage()
        with suppress(DatabaseError):
            await in_thread(gates.remove_process, self._process)

    def end_thread(self) -> None:
        """Give up a write that is under way, and end the thread."""
        if self._writing is not None:
            self._writing.cancel()
        if self._thread is not None:
            self._thread.end()
            self._thread = None

    def expire(self) -> None:
        """Forget that others take this process for alive."""
        self.heartbeat_at, self.alive_since, self._reported = float("-inf"), float("inf"), {}

    async def close(self) -> None:
        """Write the last counts, and name what is lost if that fails."""
        try:
            await self._write_usage()
        finally:  # it may also have been cancelled, since the server stops
            lost = sum(counts.requests for _, counts in self._meter.take().rows)
            if lost:
                log.error("the usage of %d requests could not be written and is lost", lost)
        with suppress(DatabaseError):
            await in_thread(gates.remove_process, self._process)

    def _is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def _next_due(self) -> Callable[[], Awaitable[None]] | None:
        now = self._loop.time()
        if now - self.heartbeat_at >= HEARTBEAT_INTERVAL_S:
            return self._beat
        if self.closed != self._reported:
            return self._report_gates
        if now - self._usage_written_at >= USAGE_INTERVAL_S:
            return self._write_usage
        return None

    async def _write_due(self) -> None:
        try:
            while (write := self._next_due()) is not None:
                await write()
        except DatabaseError as exc:
            self._not_before = self._loop.time() + RETRY_INTERVAL_S
            self._note_failure(exc)

    def _note_failure(self, exc: DatabaseError) -> None:
        failure = reason_of(exc)
        if failure != self.failure:
            log.warning("The gateway cannot report to other processes: %s (%s)", failure, exc)
        self.failure = failure

    async def _beat(self) -> None:
        assert self._thread is not None, "between open and sleep"
        began = self._loop.time()
        self._meter.processes = await self._thread.call(gates.heartbeat, self._process)
        if self._loop.time() >= self.heartbeat_at + HEARTBEAT_VALID_S:
            self.alive_since = self._loop.time()
        self.heartbeat_at, self.failure = began, ""

    async def _report_gates(self) -> None:
        assert self._thread is not None, "between open and sleep"
        closed = self.closed
        await self._thread.call(gates.report, self._process, closed)
        self._reported = closed

    async def _write_usage(self) -> None:
        self._usage_written_at = self._loop.time()
        batch = self._meter.take()
        if not batch:
            return
        try:
            await in_thread(usage.add_usage, batch, datetime.now(UTC))
        except (DatabaseError, asyncio.CancelledError) as exc:
            self._meter.put_back(batch)
            if isinstance(exc, asyncio.CancelledError):
                raise
            log.warning("The gateway cannot write its usage counts and will retry: %s", exc)
