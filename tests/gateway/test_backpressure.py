"""A client that reads slowly slows its host down, and does not fill the gateway's memory."""

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
from tests.until import PATIENCE_S, until_async

EVENT = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % (b"x" * 16_000)
LINE = b'{"message":{"content":"%s"},"done":false}\n' % (b"x" * 16_000)
MANY_PARTS = 20_000  # 320 MB in all
# More than the sockets of both sides and aiohttp's buffer hold.
MAX_BUFFERED = 24_000_000


class FastHost:
    """A host that sends as fast as it can."""

    def __init__(self, headers: dict[str, str], part: bytes) -> None:
        self._headers, self._part = headers, part
        self.sent = 0
        self.left = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._headers)
        await response.prepare(request)
        try:
            for _ in range(MANY_PARTS):
                await response.write(self._part)
                self.sent += len(self._part)
        finally:
            self.left.set()
        return response

    async def held_up(self) -> int:
        """Wait until it can send no more, and return how many bytes it had sent."""
        before = -1
        async with asyncio.timeout(PATIENCE_S):
            while before != self.sent or not self.sent:
                before = self.sent
                await asyncio.sleep(0.2)
        return before


class Reader:
    """A client that reads only as many parts as it is told to."""

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

    def disconnect(self) -> None:
        self._exchange.disconnect()


def prepared(**values: Any) -> Exchange:
    """Return a request that is not sent yet."""
    exchange = ask(**values)
    exchange.task.cancel()
    return exchange


KINDS: list[tuple[str, dict[str, str], bytes, bool]] = [
    ("/v1/chat/completions", EVENTS, EVENT, False),
    ("/api/chat", NDJSON, LINE, False),
    ("/v1/chat/completions", NDJSON, LINE, True),  # translated
]


@pytest.mark.parametrize(("path", "headers", "part", "translated"), KINDS)
async def test_a_client_that_does_not_read_holds_the_host_up(
    host: Host, upstream: Upstream, path: str, headers: dict[str, str], part: bytes,
    translated: bool,
) -> None:  # fmt: skip
    if translated:
        await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    fast = FastHost(headers, part)
    upstream.answer = fast.answer
    reader = Reader(prepared(body={**HELLO, "stream": True}, target=path))
    stopped_at = await fast.held_up()
    assert stopped_at < MAX_BUFFERED, "the host could go on although nobody read"
    reader.take(400)
    await until_async(lambda: fast.sent > stopped_at)
    reader.disconnect()
    async with asyncio.timeout(PATIENCE_S):
        await reader.task
        await fast.left.wait()
    assert fast.sent < MAX_BUFFERED + 400 * 70_000
    assert inflight.in_flight(host.pk) == 0


async def test_an_event_without_an_end_is_not_buffered(host: Host, upstream: Upstream) -> None:
    """Where the token counts are removed, an incomplete event waits for its rest."""
    fast = FastHost(EVENTS, b"data: " + b"x" * 64_000)
    upstream.answer = fast.answer
    reply = ask({**HELLO, "stream": True})
    first = await reply.next_part()
    assert len(first) < 5_000_000
    reply.disconnect()
    async with asyncio.timeout(PATIENCE_S):
        await reply.task
        await fast.left.wait()
    assert json.loads(upstream.received[0][1])["stream_options"] == {"include_usage": True}
