"""Streams that wait for a switch: proxies in front keep them open, and clients read them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.states import State
from switcher.gateway import routing, signs_of_life
from switcher.models import Host
from switcher.records.claimed_switch import ClaimedSwitch
from tests.gateway.conftest import HELLO, Exchange, Upstream, ask
from tests.gateway.test_api_styles import EVENTS, NDJSON, streamed
from tests.gateway.test_gates import activate, advance, begin_switch
from tests.until import until_async

SSE = b": waiting\n\n"
CHUNK = b'data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{}}]}\n\n'
DONE = b"data: [DONE]\n\n"
LINES = b'{"message":{"content":"Hi"},"done":false}\n{"message":{"content":""},"done":true}\n'
STREAMS = {
    "/v1/chat/completions": (SSE, "text/event-stream", (CHUNK + DONE, EVENTS)),
    "/v1/completions": (SSE, "text/event-stream", (CHUNK + DONE, EVENTS)),
    "/v1/responses": (
        SSE,
        "text/event-stream",
        (b"event: response.completed\ndata: {}\n\n", EVENTS),
    ),
    "/api/chat": (b" ", "application/x-ndjson", (LINES, NDJSON)),
    "/api/generate": (b" ", "application/x-ndjson", (LINES, NDJSON)),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs_of_life, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(signs_of_life, "INTERVAL_S", 0.01)


async def begin_swap(host: Host) -> ClaimedSwitch:
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    return switch


async def held(host: Host, target: str, **body: Any) -> Exchange:
    """Send a stream's request while its host switches, and read two signs of life."""
    reply = ask({**HELLO, "stream": True, **body}, target=target)
    await until_async(lambda: routing.held(host.pk) == 1)
    assert await reply.next_part() == STREAMS[target][0]
    assert await reply.next_part() == STREAMS[target][0]
    return reply


@pytest.mark.parametrize("target", STREAMS)
async def test_a_held_stream_gets_signs_of_life_and_then_its_reply(
    host: Host, upstream: Upstream, target: str
) -> None:
    sign, content_type, (text, headers) = STREAMS[target]
    upstream.answer = streamed(text, headers=headers)
    switch = await begin_swap(host)
    reply = await held(host, target)
    assert (reply.status, reply.headers["content-type"]) == (200, content_type)
    assert reply.headers["x-accel-buffering"] == "no"
    await in_thread(activate, switch)
    await reply.end()
    assert reply.ended
    assert reply.body.replace(sign, b"") == text.replace(sign, b"")
    assert reply.body.endswith(text)


@pytest.mark.parametrize("target", ["/api/chat", "/api/generate"])
async def test_each_line_is_still_json(host: Host, upstream: Upstream, target: str) -> None:
    upstream.answer = streamed(LINES, headers=NDJSON)
    switch = await begin_swap(host)
    reply = await held(host, target)
    await in_thread(activate, switch)
    await reply.end()
    rows = [json.loads(line) for line in reply.body.splitlines()]
    assert [row["done"] for row in rows] == [False, True]


async def test_openais_package_ignores_the_signs(host: Host, upstream: Upstream) -> None:
    upstream.answer = streamed(CHUNK, DONE, headers=EVENTS)
    switch = await begin_swap(host)
    reply = await held(host, "/v1/chat/completions")
    await in_thread(activate, switch)
    await reply.end()
    assert [chunk.id for chunk in read_by_package(reply.body)] == ["1"]


def read_by_package(body: bytes) -> list[Any]:
    """Read a stream as OpenAI's package does."""
    reply = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    transport = httpx.MockTransport(lambda _: reply)
    with httpx.Client(transport=transport) as http:
        client = openai.OpenAI(api_key="x", base_url="http://x", http_client=http, max_retries=0)
        return list(client.chat.completions.create(model="x", messages=[], stream=True))


async def refuse(request: web.Request) -> web.StreamResponse:
    error: Any = {"message": "too long", "type": "x", "param": None, "code": None}
    is_v1 = request.path.startswith("/v1")
    return web.json_response({"error": error if is_v1 else "too long"}, status=400)


async def break_off(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize("target", STREAMS)
@pytest.mark.parametrize(("fails", "text"), [(refuse, "too long"), (break_off, "closed the conn")])
async def test_an_error_after_signs_of_life_ends_the_stream_in_its_own_format(
    host: Host, upstream: Upstream, target: str, fails: Callable[..., Any], text: str
) -> None:
    upstream.answer = fails
    switch = await begin_swap(host)
    reply = await held(host, target)
    await in_thread(activate, switch)
    await reply.end()
    assert (reply.status, reply.ended) == (200, True)
    end = reply.body.lstrip(b" ").replace(SSE, b"").decode()
    if target.startswith("/api"):
        assert text in json.loads(end)["error"]
        return
    last = json.loads(end.strip().rpartition("data: ")[2])
    assert text in last["error"]["message"]
    if target == "/v1/chat/completions":
        with pytest.raises(openai.APIError, match=text):
            read_by_package(reply.body)


@pytest.mark.parametrize("target", STREAMS)
async def test_a_server_that_stops_ends_a_waiting_stream_with_an_error(
    host: Host, upstream: Upstream, target: str
) -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    upstream.answer = never
    reply = ask({**HELLO, "stream": True}, target=target)
    assert await reply.next_part() == STREAMS[target][0]
    reply.task.cancel()
    await asyncio.gather(reply.task, return_exceptions=True)
    while not reply.sent.empty():
        await reply.next_part()
    assert reply.ended
    assert b"Switchboard stopped during this answer" in reply.body


async def test_a_wait_for_the_hosts_first_byte_gets_them_too(
    host: Host, upstream: Upstream
) -> None:
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return await streamed(CHUNK, DONE, headers=EVENTS)(request)

    upstream.answer = slow
    reply = ask({**HELLO, "stream": True})
    assert await reply.next_part() == SSE
    go_on.set()
    await reply.end()
    assert reply.body.endswith(CHUNK + DONE)


@pytest.mark.parametrize("body", [{"stream": False}, {}])
async def test_a_reply_that_is_not_streamed_keeps_its_status(
    host: Host, upstream: Upstream, body: dict[str, Any]
) -> None:
    upstream.answer = refuse
    switch = await begin_swap(host)
    reply = ask({**HELLO, **body})
    await until_async(lambda: routing.held(host.pk) == 1)
    await in_thread(activate, switch)
    assert ((await reply.end()).status, reply.body[:1]) == (400, b"{")


async def test_a_stream_that_begins_in_time_is_untouched(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs_of_life, "FIRST_AFTER_S", 30.0)
    upstream.answer = streamed(CHUNK, DONE, headers=EVENTS)
    reply = await ask({**HELLO, "stream": True}).end()
    assert reply.body == CHUNK + DONE
    assert reply.headers["x-switchboard-model"] == "mid-a"
    assert reply.headers["x-accel-buffering"] == "no"


async def test_a_client_that_leaves_gives_up_its_place(host: Host, upstream: Upstream) -> None:
    switch = await begin_swap(host)
    reply = await held(host, "/v1/chat/completions")
    reply.disconnect()
    await until_async(lambda: routing.held(host.pk) == 0)
    await in_thread(activate, switch)
    assert not upstream.received
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert "signs-of-life" not in names
