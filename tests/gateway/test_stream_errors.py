"""Streams that end too early: what the client gets, and what is counted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.gateway import host_calls, route_cache, streaming
from switcher.gateway.asgi import app
from switcher.models import Host, Usage
from tests.gateway.conftest import Exchange, Upstream, ask
from tests.gateway.test_api_styles import EVENTS, NDJSON
from tests.gateway.test_forward import cut
from tests.until import PATIENCE_S

CHAT = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
LINE = b'{"message":{"content":"Hi"},"done":false}\n'
BEGUN = (
    b'event: response.created\ndata: {"response":{"id":"resp_7","object":"response",'
    b'"created_at":12,"model":"mid-a","status":"in_progress"},"sequence_number":0,'
    b'"type":"response.created"}\n\n'
)
DELTA = (
    b'event: response.output_text.delta\ndata: {"delta":"Hi","sequence_number":%d,'
    b'"type":"response.output_text.delta"}\n\n'
)
STREAMS = {
    "/v1/chat/completions": (EVENTS, [CHAT, CHAT]),
    "/v1/completions": (EVENTS, [CHAT, CHAT]),
    "/v1/responses": (EVENTS, [BEGUN, DELTA % 4, DELTA % 5]),
    "/api/chat": (NDJSON, [LINE, LINE]),
    "/api/generate": (NDJSON, [LINE, LINE]),
}


def dying(headers: dict[str, str], parts: list[bytes]) -> Any:
    """Send these parts, then close the connection in the middle of the reply."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


async def broken(upstream: Upstream, path: str, *more: bytes) -> Exchange:
    headers, parts = STREAMS[path]
    upstream.answer = dying(headers, [*parts, *more])
    return await ask({"model": "x", "stream": True}, target=path).end()


def events_of(body: bytes) -> list[tuple[str, Any]]:
    """Return name and data of each server-sent event."""
    found = []
    for text in body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in text.splitlines())
        if lines:
            found.append((lines.get("event", ""), json.loads(lines["data"])))
    return found


@pytest.mark.parametrize("path", STREAMS)
async def test_no_stream_ends_silently(host: Host, upstream: Upstream, path: str) -> None:
    reply = await broken(upstream, path)
    begun = b"".join(STREAMS[path][1])
    assert reply.body.startswith(begun)
    rest = reply.body.removeprefix(begun)
    if path.startswith("/api/"):
        assert "broke off" in json.loads(rest)["error"]
    else:
        _, last = events_of(rest)[-1]
        assert "broke off" in last["error"]["message"]
    assert reply.ended


async def test_a_response_that_broke_ends_with_its_own_failure_events(
    host: Host, upstream: Upstream
) -> None:
    reply = await broken(upstream, "/v1/responses")
    (one, failed), (two, raised) = events_of(reply.body)[-2:]
    assert (one, failed["type"], failed["sequence_number"]) == (*["response.failed"] * 2, 6)
    assert failed["response"] | {"error": None} == {
        "id": "resp_7", "object": "response", "created_at": 12, "status": "failed",
        "model": "mid-a", "output": [], "error": None,
    }  # fmt: skip
    assert failed["response"]["error"]["code"] == "server_error"
    assert (two, raised["type"], raised["sequence_number"]) == ("error", "error", 7)
    assert raised["message"] == failed["response"]["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_openais_own_package_raises_where_a_stream_broke(
    host: Host, upstream: Upstream, path: str
) -> None:
    """The package raises only for an event that has an `error` in it."""
    reply = await broken(upstream, path)

    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers=EVENTS, content=reply.body)

    def read() -> None:
        http = openai.DefaultHttpxClient(transport=httpx2.MockTransport(respond))
        with openai.OpenAI(api_key="x", base_url="http://here/v1", http_client=http) as client:
            if path == "/v1/responses":
                list(client.responses.create(model="x", input="Hi", stream=True))
            else:
                list(client.chat.completions.create(model="x", messages=[], stream=True))

    with pytest.raises(openai.APIError, match="broke off"):
        await in_thread(read)


@pytest.mark.parametrize(
    ("path", "reported"),
    [
        ("/api/chat", b'{"error":"an error was encountered: unexpected EOF"}\n'),
        ("/v1/chat/completions", b'data: {"error":{"message":"unexpected EOF"}}\n\n'),
        ("/v1/responses", b'event: error\ndata: {"type":"error","message":"unexpected EOF"}\n\n'),
    ],
)
async def test_an_error_that_the_host_reported_is_not_repeated(
    host: Host, upstream: Upstream, path: str, reported: bytes
) -> None:
    reply = await broken(upstream, path, reported)
    assert reply.body == b"".join(STREAMS[path][1]) + reported


@pytest.mark.parametrize("path", ["/api/chat", "/v1/responses"])
async def test_an_error_that_was_cut_short_is_reported_again(
    host: Host, upstream: Upstream, path: str
) -> None:
    begun = b'{"error":"an err' if path == "/api/chat" else b'data: {"error":{"mess'
    reply = await broken(upstream, path, begun)
    assert b"broke off" in reply.body.removeprefix(b"".join(STREAMS[path][1]) + begun)


async def test_an_error_written_by_the_model_is_no_error(host: Host, upstream: Upstream) -> None:
    written = (
        json.dumps({"message": {"content": '\n{"error":"no"}'}, "done": False}).encode() + b"\n"
    )
    reply = await broken(upstream, "/api/chat", written)
    assert "broke off" in json.loads(reply.body.splitlines()[-1])["error"]


async def counted() -> tuple[int, int, int]:
    """Write what was counted, and return requests, errors and tokens out."""
    await route_cache.close_current()
    row = await in_thread(Usage.objects.get)
    return row.requests, row.errors, row.tokens_out


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_that_broke_counts_as_an_error_with_its_tokens(
    host: Host, upstream: Upstream, path: str
) -> None:
    await broken(upstream, path)
    assert await counted() == (1, 1, 2)


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_that_the_client_cut_is_no_error_but_its_tokens_count(
    host: Host, upstream: Upstream, path: str
) -> None:
    headers, parts = STREAMS[path]

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(b"".join(parts))
        try:
            await asyncio.Event().wait()
        finally:
            upstream.client_left.set()
        return response

    upstream.answer = answer
    reply = ask({"model": "x", "stream": True}, target=path)
    await reply.next_part()
    reply.disconnect()
    async with asyncio.timeout(PATIENCE_S):
        await reply.task
        await upstream.client_left.wait()
    assert await counted() == (1, 0, 2)


async def test_a_disconnect_before_the_first_byte_is_no_error(
    host: Host, upstream: Upstream
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        upstream.client_left.set()
        await asyncio.Event().wait()
        raise AssertionError

    upstream.answer = answer
    reply = ask()
    async with asyncio.timeout(PATIENCE_S):
        await upstream.client_left.wait()
        reply.disconnect()
        await reply.task
    assert await counted() == (1, 0, 0)


async def test_a_host_that_dies_counts_as_an_error(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        cut(request)
        return web.Response()

    upstream.answer = answer
    assert (await ask().end()).status == 502
    assert await counted() == (1, 1, 0)


@pytest.mark.parametrize(("stream", "status"), [(True, 504), (False, 200)])
async def test_only_a_stream_has_to_start_soon(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, stream: bool, status: int
) -> None:
    """A whole reply begins when all of it was generated."""
    monkeypatch.setattr(streaming, "FIRST_PART_TIMEOUT_S", 0.05)

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600.0 if stream else 0.2)
        return web.json_response({"choices": []})

    upstream.answer = answer
    reply = await ask({"model": "x", "stream": stream}, target="/v1/chat/completions").end()
    assert reply.status == status


TOOL = {"function": {"name": "f", "arguments": {"done": True, "code": "yield\ndata: [DONE]"}}}
IN_EVENT = json.dumps({"choices": [{"delta": {"content": "yield data: [DONE]"}}]}).encode()
IN_LINE = json.dumps({"message": {"tool_calls": [TOOL]}, "done": False}, separators=(",", ":"))


@pytest.mark.fact(10)
@pytest.mark.parametrize(
    ("path", "kind", "written"),
    [
        ("/v1/chat/completions", "text/event-stream", b"data: " + IN_EVENT + b"\n\n"),
        ("/v1/responses", "text/event-stream", b"data: event: response.completed\n\n"),
        ("/api/chat", "application/x-ndjson", IN_LINE.encode() + b"\n"),
    ],
)
async def test_a_model_cannot_forge_the_stream_terminator(
    host: Host, upstream: Upstream, path: str, kind: str, written: bytes
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=written, headers={"Content-Type": kind})

    upstream.answer = answer
    reply = await ask({"messages": [], "stream": True}, target=path).end()
    assert reply.body.startswith(written)
    assert b"stopped before its answer was complete" in reply.body.removeprefix(written)


async def test_a_long_last_line_in_pieces_ends_the_stream(host: Host, upstream: Upstream) -> None:
    """`/api/generate` ends with the whole context as a list of numbers."""
    last = json.dumps({"response": "", "done": True, "context": list(range(20_000))}).encode()
    lines = b'{"response":"Hi","done":false}\n' + last + b"\n"

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for at in range(0, len(lines), 10_000):
            await response.write(lines[at : at + 10_000])
        return response

    upstream.answer = answer
    reply = await ask({"prompt": "Hello", "stream": True}, target="/api/generate").end()
    assert reply.body == lines


async def test_a_server_that_stops_says_so_in_the_stream(host: Host, upstream: Upstream) -> None:
    stay = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[]}\n\ndata: {"choices":[{}]}\n\n')
        await stay.wait()
        return response

    upstream.answer = answer
    reply = ask({"messages": [], "stream": True})
    await reply.next_part()
    reply.task.cancel()  # as servers do with unfinished requests when they stop
    await asyncio.gather(reply.task, return_exceptions=True)
    stay.set()
    assert "Switchboard stopped" in json.loads((await reply.next_part())[6:])["error"]["message"]
    assert reply.ended


async def test_a_client_that_takes_nothing_is_disconnected(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model stays busy as long as a client is connected, and a switch waits for it."""
    monkeypatch.setattr(streaming, "CLIENT_TIMEOUT_S", 0.1)
    left = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b'data: {"choices":[{}]}\n\n')
                await asyncio.sleep(0.001)
        finally:
            left.set()

    upstream.answer = answer
    reply = ask({"messages": [], "stream": True})
    reply.task.cancel()
    await asyncio.gather(reply.task, return_exceptions=True)

    async def take_nothing(message: Any) -> None:
        await asyncio.Event().wait()

    reply.incoming.put_nowait({"type": "http.request", "body": b'{"messages":[],"stream":true}'})
    async with asyncio.timeout(PATIENCE_S):
        await app(reply.scope, reply.incoming.get, take_nothing)
        await left.wait()


async def test_after_the_head_the_first_part_has_a_time_limit(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "FIRST_PART_TIMEOUT_S", 0.1)
    stay = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await stay.wait()
        return response

    upstream.answer = answer
    reply = await ask({"messages": [], "stream": True}).end()
    stay.set()
    assert reply.status == 504


@pytest.mark.parametrize("path", ["/api/tags", "/api/version", "/api/ps"])
async def test_a_list_of_a_hung_host_times_out(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(host_calls, "LIST_TIMEOUT_S", 0.1)
    stay = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await stay.wait()
        return web.json_response({})

    upstream.answer = answer
    reply = await ask(target=path, method="GET").end()
    stay.set()
    assert reply.status == 504
    assert "did not answer" in reply.json()["error"]
