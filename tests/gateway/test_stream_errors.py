"""Streams that do not come to their end: what the client is told, and what is counted."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import httpx2
import openai
import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.gateway import model_lists, route_cache, streaming
from switcher.gateway.asgi import app
from switcher.models import Host, Usage
from tests.gateway.conftest import Exchange, Upstream, ask
from tests.gateway.test_api_styles import EVENTS, NDJSON
from tests.gateway.test_forward import cut

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
    """Sends these parts, and then closes its connection without an end of the answer."""

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
    """Name and data of each server-sent event."""
    found = []
    for text in body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in text.splitlines())
        if lines:
            found.append((lines.get("event", ""), json.loads(lines["data"])))
    return found


@pytest.mark.parametrize("path", STREAMS)
async def test_no_stream_ends_silently(host: Host, upstream: Upstream, path: str) -> None:
    got = await broken(upstream, path)
    begun = b"".join(STREAMS[path][1])
    assert got.body.startswith(begun)
    rest = got.body.removeprefix(begun)
    if path.startswith("/api/"):
        assert "broke off" in json.loads(rest)["error"]
    else:
        _, last = events_of(rest)[-1]
        assert "broke off" in last["error"]["message"]
    assert got.ended


async def test_a_response_that_broke_is_failed_in_its_own_words(
    host: Host, upstream: Upstream
) -> None:
    got = await broken(upstream, "/v1/responses")
    (one, failed), (two, told) = events_of(got.body)[-2:]
    assert (one, failed["type"], failed["sequence_number"]) == (*["response.failed"] * 2, 6)
    assert failed["response"] | {"error": None} == {
        "id": "resp_7", "object": "response", "created_at": 12, "status": "failed",
        "model": "mid-a", "output": [], "error": None,
    }  # fmt: skip
    assert failed["response"]["error"]["code"] == "server_error"
    assert (two, told["type"], told["sequence_number"]) == ("error", "error", 7)
    assert told["message"] == failed["response"]["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_openais_own_package_raises_where_a_stream_broke(
    host: Host, upstream: Upstream, path: str
) -> None:
    """It raises for an event that has an `error` in it, and for nothing else."""
    got = await broken(upstream, path)

    def reply(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers=EVENTS, content=got.body)

    def read() -> None:
        http = openai.DefaultHttpxClient(transport=httpx2.MockTransport(reply))
        with openai.OpenAI(api_key="x", base_url="http://here/v1", http_client=http) as client:
            if path == "/v1/responses":
                list(client.responses.create(model="x", input="Hi", stream=True))
            else:
                list(client.chat.completions.create(model="x", messages=[], stream=True))

    with pytest.raises(openai.APIError, match="broke off"):
        await in_thread(read)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/api/chat", b'{"error":"an error was encountered: unexpected EOF"}\n'),
        ("/v1/chat/completions", b'data: {"error":{"message":"unexpected EOF"}}\n\n'),
        ("/v1/responses", b'event: error\ndata: {"type":"error","message":"unexpected EOF"}\n\n'),
    ],
)
async def test_what_the_host_tells_itself_is_told_once(
    host: Host, upstream: Upstream, path: str, told: bytes
) -> None:
    got = await broken(upstream, path, told)
    assert got.body == b"".join(STREAMS[path][1]) + told


@pytest.mark.parametrize("path", ["/api/chat", "/v1/responses"])
async def test_what_the_host_began_to_tell_is_told_anew(
    host: Host, upstream: Upstream, path: str
) -> None:
    begun = b'{"error":"an err' if path == "/api/chat" else b'data: {"error":{"mess'
    got = await broken(upstream, path, begun)
    assert b"broke off" in got.body.removeprefix(b"".join(STREAMS[path][1]) + begun)


async def test_a_model_that_writes_of_errors_is_no_error(host: Host, upstream: Upstream) -> None:
    said = json.dumps({"message": {"content": '\n{"error":"no"}'}, "done": False}).encode() + b"\n"
    got = await broken(upstream, "/api/chat", said)
    assert "broke off" in json.loads(got.body.splitlines()[-1])["error"]


async def counted() -> tuple[int, int, int]:
    """Requests, errors and tokens out, once what was counted is written."""
    await route_cache.close_current()
    row = await in_thread(Usage.objects.get)
    return row.requests, row.errors, row.tokens_out


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_that_broke_is_an_error_and_its_pieces_are_counted(
    host: Host, upstream: Upstream, path: str
) -> None:
    await broken(upstream, path)
    assert await counted() == (1, 1, 2)


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_that_its_client_cut_is_none_but_its_pieces_are_counted(
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
            upstream.left.set()
        return response

    upstream.answer = answer
    got = ask({"model": "x", "stream": True}, target=path)
    await got.next_part()
    got.leave()
    async with asyncio.timeout(10):
        await got.task
        await upstream.left.wait()
    assert await counted() == (1, 0, 2)


async def test_who_leaves_before_the_first_byte_is_no_error_of_the_hosts(
    host: Host, upstream: Upstream
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        upstream.left.set()
        await asyncio.Event().wait()
        raise AssertionError

    upstream.answer = answer
    got = ask()
    async with asyncio.timeout(10):
        await upstream.left.wait()
        got.leave()
        await got.task
    assert await counted() == (1, 0, 0)


async def test_a_host_that_is_gone_is_an_error(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        cut(request)
        return web.Response()

    upstream.answer = answer
    assert (await ask().end()).status == 502
    assert await counted() == (1, 1, 0)


@pytest.mark.parametrize(("stream", "status"), [(True, 504), (False, 200)])
async def test_only_a_stream_has_to_begin_soon(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, stream: bool, status: int
) -> None:
    """An answer that comes whole begins when all of it was made."""
    monkeypatch.setattr(streaming, "FIRST_PART_TIMEOUT_S", 0.05)

    async def answer(request: web.Request) -> web.StreamResponse:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.Event().wait()
        return web.json_response({"choices": []})

    upstream.answer = answer
    got = await ask({"model": "x", "stream": stream}, target="/v1/chat/completions").end()
    assert got.status == status


TOOL = {"function": {"name": "f", "arguments": {"done": True, "code": "yield\ndata: [DONE]"}}}
IN_EVENT = json.dumps({"choices": [{"delta": {"content": "yield data: [DONE]"}}]}).encode()
IN_LINE = json.dumps({"message": {"tool_calls": [TOOL]}, "done": False}, separators=(",", ":"))


@pytest.mark.fact(10)
@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("/v1/chat/completions", "text/event-stream", b"data: " + IN_EVENT + b"\n\n"),
        ("/v1/responses", "text/event-stream", b"data: event: response.completed\n\n"),
        ("/api/chat", "application/x-ndjson", IN_LINE.encode() + b"\n"),
    ],
)
async def test_an_end_that_the_model_only_speaks_of_is_none(
    host: Host, upstream: Upstream, path: str, kind: str, said: bytes
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=said, headers={"Content-Type": kind})

    upstream.answer = answer
    got = await ask({"messages": [], "stream": True}, target=path).end()
    assert got.body.startswith(said)
    assert b"stopped before it had ended" in got.body.removeprefix(said)


async def test_a_last_line_that_is_long_and_comes_in_pieces_is_an_end(
    host: Host, upstream: Upstream
) -> None:
    """`/api/generate` ends with the whole context, as numbers."""
    last = json.dumps({"response": "", "done": True, "context": list(range(20_000))}).encode()
    lines = b'{"response":"Hi","done":false}\n' + last + b"\n"

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for at in range(0, len(lines), 10_000):
            await response.write(lines[at : at + 10_000])
        return response

    upstream.answer = answer
    got = await ask({"prompt": "Hello", "stream": True}, target="/api/generate").end()
    assert got.body == lines


async def test_a_server_that_ends_tells_so_in_the_stream(host: Host, upstream: Upstream) -> None:
    stay = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[]}\n\ndata: {"choices":[{}]}\n\n')
        await stay.wait()
        return response

    upstream.answer = answer
    got = ask({"messages": [], "stream": True})
    await got.next_part()
    got.task.cancel()  # as servers do with what has not ended when they have to
    await asyncio.gather(got.task, return_exceptions=True)
    stay.set()
    assert "is stopped" in json.loads((await got.next_part())[6:])["error"]["message"]
    assert got.ended


async def test_who_takes_nothing_for_long_is_left(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model stays busy as long as somebody listens, and a switch waits for it."""
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
    got = ask({"messages": [], "stream": True})
    got.task.cancel()
    await asyncio.gather(got.task, return_exceptions=True)

    async def take_nothing(message: Any) -> None:
        await asyncio.Event().wait()

    got.incoming.put_nowait({"type": "http.request", "body": b'{"messages":[],"stream":true}'})
    async with asyncio.timeout(10):
        await app(got.scope, got.incoming.get, take_nothing)
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
    got = await ask({"messages": [], "stream": True}).end()
    stay.set()
    assert got.status == 504


@pytest.mark.parametrize("path", ["/api/tags", "/api/version", "/api/ps"])
async def test_a_list_of_a_hung_host_is_not_waited_for_for_long(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(model_lists, "LIST_TIMEOUT_S", 0.1)
    stay = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await stay.wait()
        return web.json_response({})

    upstream.answer = answer
    got = await ask(target=path, method="GET").end()
    stay.set()
    assert got.status == 504
    assert "did not answer" in got.json()["error"]
