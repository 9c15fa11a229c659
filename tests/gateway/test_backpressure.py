"""A client that reads slowly holds its host up, not the gateway's memory."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain import inflight
from switcher.domain.specs import Spec
from switcher.gateway.asgi import app
from switcher.models import Host
from tests.gateway.conftest import HELLO, Exchange, Upstream, ask, set_active
from tests.gateway.test_api_styles import EVENTS, NDJSON
from tests.until import until_async

EVENT = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % (b"x" * 16_000)
LINE = b'{"message":{"content":"%s"},"done":false}\n' % (b"x" * 16_000)
ENDLESS = 20_000  # parts: 320 MB, which nobody would hold by the way
# What the sockets of both sides and aiohttp's own buffer take in.
MOST = 24_000_000


class Fast:
    """A host that sends as fast as it may."""

    def __init__(self, headers: dict[str, str], part: bytes) -> None:
        self._headers, self._part = headers, part
        self.sent = 0
        self.left = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._headers)
        await response.prepare(request)
        try:
            for _ in range(ENDLESS):
                await response.write(self._part)
                self.sent += len(self._part)
        finally:
            self.left.set()
        return response

    async def held_up(self) -> int:
        """The bytes that it had sent when it could send no more for a while."""
        before = -1
        async with asyncio.timeout(30):
            while before != self.sent or not self.sent:
                before = self.sent
                await asyncio.sleep(0.2)
        return before


class Reader:
    """A client that takes what it is asked to take, and no more."""

    def __init__(self, exchange: Exchange) -> None:
        self.taken = 0
        self._may = asyncio.Semaphore(2)
        self.task = asyncio.create_task(app(exchange.scope, exchange.incoming.get, self._send))
        self._exchange = exchange

    async def _send(self, message: Any) -> None:
        await self._may.acquire()
        self.taken += len(message.get("body", b""))

    def take(self, parts: int) -> None:
        for _ in range(parts):
            self._may.release()

    def leave(self) -> None:
        self._exchange.leave()


def prepared(**values: Any) -> Exchange:
    """A request that is not sent yet."""
    exchange = ask(**values)
    exchange.task.cancel()
    return exchange


KINDS: list[tuple[str, dict[str, str], bytes, bool]] = [
    ("/v1/chat/completions", EVENTS, EVENT, False),
    ("/api/chat", NDJSON, LINE, False),
    ("/v1/chat/completions", NDJSON, LINE, True),  # translated
]


@pytest.mark.parametrize(("path", "headers", "part", "translated"), KINDS)
async def test_what_nobody_reads_is_not_asked_of_the_host(
    host: Host, upstream: Upstream, path: str, headers: dict[str, str], part: bytes,
    translated: bool,
) -> None:  # fmt: skip
    if translated:
        await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    fast = Fast(headers, part)
    upstream.answer = fast.answer
    reader = Reader(prepared(body={**HELLO, "stream": True}, target=path))
    stopped_at = await fast.held_up()
    assert stopped_at < MOST, "the host was let on though nobody read"
    reader.take(400)
    await until_async(lambda: fast.sent > stopped_at)
    reader.leave()
    async with asyncio.timeout(10):
        await reader.task
        await fast.left.wait()
    assert fast.sent < MOST + 400 * 70_000
    assert inflight.in_flight(host.pk) == 0


async def test_an_event_that_never_ends_is_not_waited_for_in_memory(
    host: Host, upstream: Upstream
) -> None:
    """Where the count of tokens is taken out, what is not a whole event waits for its rest."""
    fast = Fast(EVENTS, b"data: " + b"x" * 64_000)
    upstream.answer = fast.answer
    got = ask({**HELLO, "stream": True})
    first = await got.next_part()
    assert len(first) < 5_000_000
    got.leave()
    async with asyncio.timeout(10):
        await got.task
        await fast.left.wait()
    assert json.loads(upstream.asked[0][1])["stream_options"] == {"include_usage": True}
