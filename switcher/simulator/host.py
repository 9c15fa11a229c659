"""The machine in real time: one asyncio timer moves it, requests wait for their Ask."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from switcher.simulator.catalog import Catalog, Manifest
from switcher.simulator.faults import Faults
from switcher.simulator.machine import Ask, Config, Machine

FOREVER = timedelta(days=106_751)  # fact 7: what -1 comes back as


@dataclass(frozen=True, slots=True)
class Work:
    """What a request wants done: a load alone (`tokens` 0) or that and so many tokens."""

    name: str
    manifest: Manifest
    options: dict[str, Any]
    keep_alive_s: float | None
    tokens: int


class Host:
    """One simulated server: its disk, its machine, its faults."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.faults = Faults()
        self.catalog = Catalog()
        self.machine = self._new_machine()
        # Set by whoever listens: stop listening for so many seconds.
        self.refuse: Callable[[float], Coroutine[Any, Any, None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started: float | None = None

    def _new_machine(self) -> Machine:
        machine = Machine(self.config)
        machine.load_fault = self.faults.load_fault
        machine.vram_share = self.faults.vram_share
        machine.load_factor = self.faults.load_factor
        machine.ignores_unload = self.faults.ignores_unload
        return machine

    def now(self) -> float:
        """Seconds since the first use."""
        loop_time = asyncio.get_running_loop().time()
        if self._started is None:
            self._started = loop_time
        return loop_time - self._started

    def tick(self) -> None:
        """Bring the machine to now, and set the timer for what comes next."""
        self.machine.advance(self.now())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.machine.next_event_at()
        if at < math.inf:
            delay = max(0.0, at - self.now())
            self._timer = asyncio.get_running_loop().call_later(delay, self.tick)

    @asynccontextmanager
    async def asked(self, work: Work) -> AsyncIterator[tuple[Ask, asyncio.Event]]:
        """Submit and keep the place; leaving the block gives it up if it has not ended."""
        self.tick()
        news = asyncio.Event()
        ask = Ask(
            work.name, work.manifest, work.options, work.keep_alive_s, work.tokens, self.machine.now
        )
        ask.on_change = lambda _: news.set()
        self.machine.submit(ask)
        self.tick()
        try:
            yield ask, news
        finally:
            self.machine.advance(self.now())
            self.machine.abandon(ask)
            self.tick()

    async def until_running(self, ask: Ask, news: asyncio.Event) -> None:
        """Wait until it runs or has ended."""
        while not ask.ended and ask.state != "running":
            await news.wait()
            news.clear()

    async def until_ended(self, ask: Ask, news: asyncio.Event) -> None:
        """Wait until it has ended, one way or another."""
        while not ask.ended:
            await news.wait()
            news.clear()

    def wall(self, at: float) -> str:
        """A moment of the machine as the server writes it."""
        now = datetime.now(UTC)
        moment = now + FOREVER if at == math.inf else now + timedelta(seconds=at - self.now())
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
