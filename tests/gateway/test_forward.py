from __future__ import annotations

import asyncio
import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain import inflight, last_answers
from switcher.gateway import body
from switcher.models import Host
from tests.gateway.conftest import HELLO, Upstream, add_host, ask
from tests.until import PATIENCE_S

EVENTS = {"Content-Type": "text/event-stream"}
ONE = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions"])
async def test_a_request_goes_to_the_active_model_whatever_name_it_uses(
    host: Host, upstream: Upstream, path: str
) -> None:
    reply = await ask(target=path, Cookie="session_id=secret", Authorization="Bearer key").end()
    assert reply.status == 200
    assert reply.headers["x-switchboard-model"] == "mid-a"
    assert reply.json() == {"object": "chat.completion", "choices": []}
    asked, _, headers = upstream.received[0]
    assert asked == "/v1/chat/completions"
    assert upstream.body() == {**HELLO, "model": "mid-a"}
    assert "Cookie" not in headers
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("target", "headers"),
    [("/chat/completions?host=den", {}), ("/chat/completions", {"X_Switchboard_Host": "den"})],
)
async def test_a_client_may_name_the_host(
    host: Host, upstream: Upstream, target: str, headers: dict[str, str]
) -> None:
    await in_thread(add_host, "den", f"{upstream.url}/den", "mid-c")
    reply = await ask(target=target, **headers).end()
    assert reply.headers["x-switchboard-model"] == "mid-c"


async def test_all_other_members_are_forwarded_byte_for_byte(
    host: Host, upstream: Upstream
) -> None:
    members = '"messages" : [ {"role":"user","content":"\\u00e9\\ud83d é\\n"} ]'
    numbers = '"temperature":0.70000000000000000001,"seed":12345678901234567890'
    sent = f'\n{{ "model":"x", {members},"keep_alive":"9h", {numbers} ,"model" : [1]}}\n'
    await ask(sent.encode()).end()
    assert upstream.received[0][1].decode() == f'{{"model":"mid-a",{members},{numbers}}}'


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"hello",
        b"[]",
        b'"a"',
        b"{",
        b'{"a"}',
        b'{"a":1,}',
        b"{} x",
        b"{1:2}",
        b"\xff{}",
        b'{"a":' + b"[" * 100_000,
        b'{"a":1',
        b"null",
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(
    host: Host, upstream: Upstream, sent: bytes
) -> None:
    reply = await ask(sent).end()
    assert reply.status == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert reply.json()["error"]["code"] == "invalid_json"
    assert not upstream.received


async def test_an_empty_object_is_forwarded(host: Host, upstream: Upstream) -> None:
    await ask(b" { } ").end()
    assert upstream.body() == {"model": "mid-a"}


@pytest.mark.parametrize("sent", [b'{"a":[%s0]}' % (b"0," * 10), b'{"a":[%s]}' % (b"[]" * 11)])
async def test_a_body_with_too_many_values_is_refused(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Parsing millions of small values takes seconds, in which nobody is served, and a hundred
    times their bytes in memory."""
    monkeypatch.setattr(body, "MAX_VALUES", 11)
    assert (await ask(sent).end()).status == 413
    assert (await ask(b'{"a":[1,2,3]}').end()).status == 200


async def test_a_stream_is_relayed_part_by_part(host: Host, upstream: Upstream) -> None:
    """Each part arrives before the host sends the next one."""
    go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        await response.write(ONE)
        await go_on.wait()
        await response.write(DONE)
        return response

    upstream.answer = answer
    reply = ask({**HELLO, "stream": True})
    assert await reply.next_part() == ONE
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["x-switchboard-model"] == "mid-a"
    assert inflight.in_flight(host.pk) == 1
    go_on.set()
    await reply.end()
    assert reply.body == ONE + DONE
    assert reply.ended
    assert inflight.in_flight(host.pk) == 0


async def test_a_disconnect_ends_the_hosts_work(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        try:
            while True:
                await response.write(ONE)
                await asyncio.sleep(0.001)
        except (ConnectionError, asyncio.CancelledError):
            upstream.client_left.set()
            raise

    upstream.answer = answer
    reply = ask({**HELLO, "stream": True})
    await reply.next_part()
    reply.disconnect()
    async with asyncio.timeout(PATIENCE_S):
        await reply.task
        await upstream.client_left.wait()
    assert inflight.in_flight(host.pk) == 0


async def test_a_disconnect_before_the_first_byte_ends_it_too(
    host: Host, upstream: Upstream
) -> None:
    asked = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            upstream.client_left.set()
        raise AssertionError

    upstream.answer = answer
    reply = ask()
    async with asyncio.timeout(PATIENCE_S):
        await asked.wait()
        reply.disconnect()
        await reply.task
        await upstream.client_left.wait()
    assert reply.sent.empty()


def cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


@pytest.mark.parametrize("headed", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_host_that_dies_before_the_first_byte_is_a_502(
    host: Host, upstream: Upstream, headed: bool, stream: bool
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENTS)
        if headed:
            await response.prepare(request)
        cut(request)
        return response

    upstream.answer = answer
    reply = await ask({**HELLO, "stream": stream}).end()
    assert reply.status == 502
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "upstream_failed"
    assert "tower" in error["message"]


@pytest.mark.parametrize(("last", "begins"), [(ONE, ONE), (ONE + b'data: {"cho', ONE)])
async def test_a_stream_that_breaks_ends_with_an_error_event(
    host: Host, upstream: Upstream, last: bytes, begins: bytes
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        await response.write(last)
        while not reply.body:
            await asyncio.sleep(0)
            if not reply.sent.empty():
                await reply.next_part()
        cut(request)
        return response

    upstream.answer = answer
    reply = ask({**HELLO, "stream": True})
    await reply.end()
    assert reply.status == 200
    assert reply.body.startswith(begins)
    event = json.loads(reply.body.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert event["error"]["code"] == "upstream_failed"
    assert "broke off" in event["error"]["message"]
    assert reply.ended


async def test_a_stream_that_stops_without_being_done_ends_with_an_error(
    host: Host, upstream: Upstream
) -> None:
    """Fact 10: the runner stopped, and the server ended the stream as if all were well."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=ONE, headers=EVENTS)

    upstream.answer = answer
    reply = await ask({**HELLO, "stream": True}).end()
    assert "stopped before" in reply.events()[-1]["error"]["message"]


async def test_a_whole_reply_that_breaks_off_is_a_502(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"id":')
        cut(request)
        return response

    upstream.answer = answer
    assert (await ask().end()).status == 502


async def test_the_hosts_own_error_passes_unchanged(host: Host, upstream: Upstream) -> None:
    refusal = {"error": {"message": "bad", "type": "invalid_request_error", "param": None}}

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(refusal, status=400)

    upstream.answer = answer
    reply = await ask().end()
    assert (reply.status, reply.json()) == (400, refusal)


async def test_a_redirect_is_not_followed(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere")

    upstream.answer = answer
    reply = await ask().end()
    assert reply.status == 502
    assert len(upstream.received) == 1


async def test_no_compression_is_asked_for(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
        return web.json_response({"plain": True})

    upstream.answer = answer
    assert (await ask(Accept_Encoding="gzip").end()).json() == {"plain": True}


async def test_a_host_that_is_not_there_is_a_502(host: Host, unused_tcp_port: int) -> None:
    await in_thread(add_host, "gone", f"http://127.0.0.1:{unused_tcp_port}", "mid-a")
    reply = await ask(target="/chat/completions?host=gone").end()
    assert reply.status == 502
    assert "No connection" in reply.json()["error"]["message"]


async def test_without_an_active_model_it_says_what_to_do(host: Host, upstream: Upstream) -> None:
    await in_thread(add_host, "den", f"{upstream.url}/den")
    reply = await ask(target="/chat/completions?host=den").end()
    assert reply.status == 503
    assert reply.json()["error"]["code"] == "no_active_model"
    assert "/ollama/models/switch" in reply.json()["error"]["message"]


async def test_an_unknown_host_is_404(host: Host) -> None:
    reply = await ask(target="/chat/completions?host=nowhere").end()
    assert reply.status == 404
    assert reply.json()["error"]["code"] == "host_not_found"


async def test_without_any_host_it_is_503(
    transactional_db: None, settings: Any, upstream: Upstream
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = True
    assert (await ask().end()).status == 503


async def test_the_active_model_is_listed(host: Host) -> None:
    reply = await ask(target="/v1/models", method="GET").end()
    assert reply.status == 200
    assert [m["id"] for m in reply.json()["data"]] == ["mid-a"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/chat/completions", 405),
        ("POST", "/v1/models", 405),
    ],
)
async def test_other_paths_and_methods_are_refused_in_the_same_style(
    host: Host, method: str, target: str, status: int
) -> None:
    reply = await ask(target=target, method=method).end()
    assert reply.status == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in reply.headers) is (status == 405)


async def test_a_refusal_without_a_reason_comes_with_a_hint(host: Host, upstream: Upstream) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=403)

    upstream.answer = refuse
    reply = await ask().end()
    assert reply.status == 502
    assert "let the proxy in front of it send Host: localhost" in reply.json()["error"]["message"]


@pytest.mark.fact(19)
async def test_the_time_of_a_models_last_answer_is_known(host: Host, upstream: Upstream) -> None:
    before, digest = datetime.now(UTC), ""  # nothing was switched to in these tests
    assert (await ask().end()).status == 200
    answered = last_answers.last_answer(host.pk, digest)
    assert answered is not None
    assert answered >= before
