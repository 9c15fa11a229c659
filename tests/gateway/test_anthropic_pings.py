"""Signs of life in the streams of Anthropic's clients, which are pings."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import httpx2
import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.states import State
from switcher.gateway import routing, signs_of_life
from switcher.gateway.response import SSE_TYPE
from switcher.models import Host
from tests.gateway.conftest import Exchange, Upstream, ask
from tests.gateway.test_anthropic import HELLO, NDJSON, PATH, STREAM, line, whole
from tests.gateway.test_api_styles import streamed
from tests.gateway.test_gates import activate, advance, begin_switch
from tests.gateway.test_stream_errors import dying, events_of
from tests.until import until_async


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs_of_life, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(signs_of_life, "INTERVAL_S", 0.01)


PING = b'event: ping\ndata: {"type":"ping"}\n\n'


async def pinged(reply: Exchange) -> None:
    """Read the head and two pings."""
    assert [await reply.next_part() for _ in range(2)] == [PING, PING]
    assert reply.status == 200


@pytest.mark.usefixtures("quick_pings")
async def test_a_stream_that_a_switch_holds_is_pinged(host: Host, upstream: Upstream) -> None:
    upstream.answer = streamed(line("Hello"), line(done=True), headers=NDJSON)
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    reply = ask(STREAM, target=PATH)
    await until_async(lambda: routing.held(host.pk) == 1)
    await pinged(reply)
    assert not upstream.received
    await in_thread(activate, switch)
    found = [row for row in events_of((await reply.end()).body) if row[0] != "ping"]
    assert found[0][1]["message"]["model"] == "mid-b", "the head is sent before it is known"
    assert found[-1][0] == "message_stop"


@pytest.mark.usefixtures("quick_pings")
async def test_what_is_not_a_stream_is_not_pinged(host: Host, upstream: Upstream) -> None:
    upstream.answer = whole("Hello")
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    reply = ask(HELLO, target=PATH)
    await until_async(lambda: routing.held(host.pk) == 1)
    await in_thread(activate, switch)
    assert (await reply.end()).json()["model"] == "mid-b"


@pytest.mark.usefixtures("quick_pings")
async def test_a_hold_that_fails_ends_with_an_error_event(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "GATE_TIMEOUT_S", 0.3)
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    reply = await ask(STREAM, target=PATH).end()
    kind, data = events_of(reply.body)[-1]
    assert (reply.status, kind, data["error"]["type"]) == (200, "error", "overloaded_error")
    assert reply.ended


@pytest.mark.usefixtures("quick_pings")
async def test_a_pinged_request_is_still_repeated_once(host: Host, upstream: Upstream) -> None:
    """Nothing of the reply was sent yet."""
    break_now = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if len(upstream.received) == 1:
            await break_now.wait()
            assert request.transport is not None
            request.transport.close()
        return await streamed(line("Hello"), line(done=True), headers=NDJSON)(request)

    upstream.answer = answer
    reply = ask(STREAM, target=PATH)
    await pinged(reply)
    break_now.set()
    assert events_of((await reply.end()).body)[-1][0] == "message_stop"
    assert len(upstream.received) == 2


@pytest.mark.usefixtures("quick_pings")
async def test_pings_come_between_the_parts_and_none_after_the_end(
    host: Host, upstream: Upstream
) -> None:
    """Nothing comes from the host while it generates a tool call."""
    go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=NDJSON)
        await response.prepare(request)
        await response.write(line("Hel"))
        await go_on.wait()
        await response.write(line("lo", done=True))
        return response

    upstream.answer = answer
    reply = ask(STREAM, target=PATH)
    while b"content_block_delta" not in reply.body or PING not in reply.body.partition(b"Hel")[2]:
        await reply.next_part()
    go_on.set()
    kinds = [kind for kind, _ in events_of((await reply.end()).body)]
    assert (kinds[-1], reply.ended) == ("message_stop", True)
    assert "signs-of-life" not in {task.get_name() for task in asyncio.all_tasks()}


@pytest.mark.usefixtures("quick_pings")
async def test_a_server_that_stops_ends_a_pinged_stream_with_an_error(
    host: Host, upstream: Upstream
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    upstream.answer = answer
    reply = ask(STREAM, target=PATH)
    await pinged(reply)
    reply.task.cancel()
    await asyncio.gather(reply.task, return_exceptions=True)
    while not reply.sent.empty():
        await reply.next_part()
    assert (events_of(reply.body)[-1][0], reply.ended) == ("error", True)


@pytest.mark.usefixtures("quick_pings")
async def test_a_client_that_leaves_a_held_stream_gives_up_its_place(
    host: Host, upstream: Upstream
) -> None:
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    reply = ask(STREAM, target=PATH)
    await until_async(lambda: routing.held(host.pk) == 1)
    await pinged(reply)
    reply.disconnect()
    await until_async(lambda: routing.held(host.pk) == 0)
    assert "error" not in [kind for kind, _ in events_of((await reply.end()).body)]


def read_with_package(body: bytes) -> str:
    """Return the text that the package anthropic reads from a stream."""

    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"Content-Type": SSE_TYPE}, content=body)

    http = anthropic.DefaultHttpxClient(transport=httpx2.MockTransport(respond))
    asked: Any = HELLO
    with (
        anthropic.Anthropic(api_key="x", base_url="http://here", http_client=http) as client,
        client.messages.stream(**asked) as stream,
    ):
        return "".join(stream.text_stream)


async def test_the_package_reads_a_stream_with_pings_and_raises_for_an_error(
    host: Host, upstream: Upstream
) -> None:
    upstream.answer = streamed(line("Hel"), line("lo"), line(done=True), headers=NDJSON)
    complete = (await ask(STREAM, target=PATH).end()).body
    assert await in_thread(read_with_package, PING + complete + PING) == "Hello"
    upstream.answer = dying(NDJSON, [line("Hel")])
    broken = (await ask(STREAM, target=PATH).end()).body
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        await in_thread(read_with_package, PING + broken)
