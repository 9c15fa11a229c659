"""Hosts that are not Ollama, but speak its API or OpenAI's in their own way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp import web

from switcher.models import Host
from tests.gateway.conftest import HELLO, Upstream, ask
from tests.gateway.test_api_styles import EVENTS, NDJSON, streamed

PARTS = [
    'data: {"choices":[{"delta":{"content":"Hi"}}]}',
    'data: {"choices":%s,"usage":{"prompt_tokens":3,"completion_tokens":2}}',
    "data: [DONE]",
]


def stream(end: str, space: str = "") -> list[bytes]:
    rows = [row.replace("%s", "[]").replace('s":', f's":{space}') for row in PARTS]
    return [(row + end + end).encode() for row in rows]


def cut(data: bytes, size: int) -> Iterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_events_pass_whatever_ends_their_lines(
    host: Host, upstream: Upstream, end: str, space: str, size: int
) -> None:
    text, counts, done = stream(end, space)
    upstream.answer = streamed(*cut(text + counts + done, size), headers=EVENTS)
    reply = await ask({**HELLO, "stream": True}).end()
    assert (reply.status, reply.body) == (200, text + done)
    asked = {"stream_options": {"include_usage": True}}
    reply = await ask({**HELLO, "stream": True, **asked}).end()
    assert reply.body == text + counts + done


async def test_an_event_with_crlf_passes_before_the_next_one(
    host: Host, upstream: Upstream
) -> None:
    text, _, done = stream("\r\n")
    go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        await response.write(text)
        await go_on.wait()
        await response.write(done)
        return response

    upstream.answer = answer
    reply = ask({**HELLO, "stream": True})
    assert await reply.next_part() == text
    go_on.set()
    await reply.end()


async def test_an_error_in_events_with_crlf_is_passed_on_once(
    host: Host, upstream: Upstream
) -> None:
    error = b'data: {"error":{"message":"broken"}}\r\n\r\n'
    upstream.answer = streamed(stream("\r\n")[0], error, headers=EVENTS)
    reply = await ask({**HELLO, "stream": True}).end()
    assert reply.body.count(b"error") == 1


async def test_a_stream_that_ends_without_a_blank_line_passes(
    host: Host, upstream: Upstream
) -> None:
    upstream.answer = streamed(b'data: {"choices":[]}\ndata: x\n\ndata: [DONE]', headers=EVENTS)
    reply = await ask({**HELLO, "stream": True}).end()
    assert (reply.status, reply.body) == (200, b"data: [DONE]")


async def test_lines_with_crlf_are_complete(host: Host, upstream: Upstream) -> None:
    lines = b'{"message":{},"done":false}\r\n{"message":{},"done":true}\r\n'
    upstream.answer = streamed(lines, headers=NDJSON)
    reply = await ask({**HELLO, "stream": True}, target="/api/chat").end()
    assert reply.body == lines
