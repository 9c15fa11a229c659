"""The server in real time: one asyncio timer advances it, and requests wait for their `Ask`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from aiohttp import web

from ollama_simulator.faults import Fault
from ollama_simulator.runner import Ask
from ollama_simulator.server import Request, Server


class Turn:
    """A request submitted to the scheduler, with notification of its changes."""

    def __init__(self, host: Host, ask: Ask) -> None:
        self.host, self.ask = host, ask
        self._news = asyncio.Event()
        ask.on_change = self._news.set

    async def until(self, *states: str) -> None:
        """Wait until the request is in one of the states, or has ended."""
        while not self.ask.ended and self.ask.state not in states:
            await self._news.wait()
            self._news.clear()

    async def until_token(self, number: int) -> None:
        """Wait until token `number` is due, or the request has ended."""
        while not self.ask.ended:
            left = self.ask.due_at(number) - self.host.now()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
                self._news.clear()
            except TimeoutError:
                return


class Host:
    """A server behind HTTP: a `Server` that the event loop's clock advances."""

    def __init__(self, server: Server, seed: int = 0) -> None:
        self.server = server
        self.seed = seed
        # Set by the listener: cut all connections but one, listen again after some seconds.
        self.refuse: Callable[[float, asyncio.BaseTransport | None], Awaitable[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began_at: float | None = None
        self._began_wall = datetime.now(UTC)

    def now(self) -> float:
        """Return the seconds since the first call."""
        loop_time = asyncio.get_running_loop().time()
        if self._began_at is None:
            self._began_at, self._began_wall = loop_time, datetime.now(UTC)
        return loop_time - self._began_at

    def tick(self) -> Server:
        """Advance the server to now, set the timer for its next event, and return the server."""
        self.server.advance(self.now())
        self._set_timer()
        return self.server

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.server.next_event_at()
        if at < math.inf:
            # Event loop timers cannot be set further ahead than some days.
            delay = min(86_400.0, max(0.0, at - self.now()))
            self._timer = asyncio.get_running_loop().call_later(delay, self.tick)

    @asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[Turn]:
        """Submit a request; leaving the block abandons it if it has not ended (fact 9).

        Raises `Refused`.
        """
        ask = self.tick().submit(request)
        turn = Turn(self, ask)
        self._set_timer()
        try:
            yield turn
        finally:
            ask.on_change = None
            self.tick().abandon(ask)
            self._set_timer()

    async def do(self, act: Fault, spare: asyncio.BaseTransport | None = None) -> bool:
        """Perform an act; return False if there is no such model. `spare` is the connection that
        survives a restart, so that it can be answered.
        """
        if act.kind not in ("restart", "refuse"):
            done = self.tick().do(act)
            self.tick()
            return done
        self.tick().do(act)
        if self.refuse is not None:
            await self.refuse(float(act.fields["seconds"]), spare)
        return True

    def wall(self, at: float) -> str:
        """Format a simulation time in seconds as in the server's responses."""
        return go_time(self._began_wall + timedelta(seconds=at))


def go_time(moment: datetime) -> str:
    """Format a time as RFC 3339, without trailing zeros in the fraction, as Go does."""
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}Z"


def now_text() -> str:
    return go_time(datetime.now(UTC))


HOST = web.AppKey("host", Host)
