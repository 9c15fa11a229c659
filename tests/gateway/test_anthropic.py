"""Anthropic's API: what goes to the host, and what the client gets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import httpx2
import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.domain.states import State
from switcher.gateway import anthropic_tokens, route_cache, routing, signs_of_life
from switcher.gateway.response import SSE_TYPE
from switcher.models import Host, Usage
from switcher.records.keys import NewKey, make_key
from tests import make
from tests.gateway.conftest import ADMIN, Exchange, Upstream, ask, set_active
from tests.gateway.test_api_styles import set_policy, streamed
from tests.gateway.test_gates import activate, advance, begin_switch
from tests.gateway.test_stream_errors import dying, events_of
from tests.until import until_async

PATH = "/v1/messages"
HELLO = {
    "model": "claude-sonnet-5",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "Hello"}],
}
NDJSON = {"Content-Type": "application/x-ndjson"}
LAST = {"done_reason": "stop", "prompt_eval_count": 7, "eval_count": 3}
CALL = {"id": "call_1", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
STREAM = HELLO | {"stream": True}


def line(content: str = "", done: bool = False, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    row = {"model": "mid-a", "message": message, "done": done, **(LAST if done else {}), **more}
    return json.dumps(row).encode() + b"\n"


def whole(*args: Any, **more: Any) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(json.loads(line(*args, done=True, **more)))

    return answer


async def events(upstream: Upstream, *lines: bytes) -> list[tuple[str, Any]]:
    upstream.answer = streamed(*lines, headers=NDJSON)
    reply = await ask(STREAM, target=PATH).end()
    assert reply.headers["content-type"] == "text/event-stream"
    return events_of(reply.body)


async def test_a_message_is_asked_of_the_active_model_as_a_chat(
    host: Host, upstream: Upstream
) -> None:
    upstream.answer = whole("Hello you")
    asked = HELLO | {"metadata": {"user_id": "7"}, "keep_alive": 0}
    reply = await ask(asked, target=f"{PATH}?beta=true", anthropic_version="2023-06-01").end()
    assert upstream.received[0][0] == "/api/chat"
    assert upstream.body() == {
        "model": "mid-a",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": False,
        "options": {"num_predict": 9},
        "think": False,
    }
    assert reply.status == 200
    assert reply.headers["x-switchboard-model"] == "mid-a"
    assert reply.headers["x-switchboard-dropped"] == "keep_alive, metadata"
    assert reply.headers["request-id"].startswith("req_")
    message = reply.json()
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "mid-a",
        "content": [{"type": "text", "text": "Hello you"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }


async def test_thoughts_and_tool_calls_are_blocks(host: Host, upstream: Upstream) -> None:
    upstream.answer = whole("Wait.", message={"thinking": "Hm.", "tool_calls": [CALL]})
    reply = (await ask(HELLO, target=PATH).end()).json()
    assert reply["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Wait."},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}},
    ]
    assert reply["stop_reason"] == "tool_use"


async def test_a_reply_at_its_limit_says_so(host: Host, upstream: Upstream) -> None:
    upstream.answer = whole("Hel", done_reason="length")
    assert (await ask(HELLO, target=PATH).end()).json()["stop_reason"] == "max_tokens"


async def test_a_stream_is_the_events_of_a_message(host: Host, upstream: Upstream) -> None:
    thinking = {"thinking": "Hm."}
    lines = (line(message=thinking), line("Hel"), line("lo"), line(done=True))
    found = await events(upstream, *lines)
    assert [(kind, kind == data["type"]) for kind, data in found] == [
        (kind, True)
        for kind in (
            "message_start",
            *("content_block_start", "content_block_delta", "content_block_stop"),
            *("content_block_start", "content_block_delta", "content_block_delta"),
            *("content_block_stop", "message_delta", "message_stop"),
        )
    ]
    data = [row for _, row in found]
    assert data[0]["message"]["content"] == []
    assert data[1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert data[2]["delta"] == {"type": "thinking_delta", "thinking": "Hm."}
    assert [row["index"] for row in data[1:8]] == [0, 0, 0, 1, 1, 1, 1]
    assert data[5]["delta"] == {"type": "text_delta", "text": "Hel"}
    assert data[8]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert data[8]["usage"] == {"input_tokens": 7, "output_tokens": 3}


async def test_streamed_tool_calls_are_blocks_of_their_own(host: Host, upstream: Upstream) -> None:
    calls = {"tool_calls": [CALL, {"function": {"name": "now"}}]}
    found = await events(upstream, line("Wait."), line(message=calls), line(done=True))
    starts = [data for kind, data in found if kind == "content_block_start"]
    assert [row["index"] for row in starts] == [0, 1, 2]
    first, second = (row["content_block"] for row in starts[1:])
    assert first == {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}
    assert (second["name"], second["id"].startswith("toolu_")) == ("now", True)
    partial = [d["delta"]["partial_json"] for _, d in found if "partial_json" in str(d)]
    assert [json.loads(text) for text in partial] == [{"city": "Paris"}, {}]
    assert found[-2][1]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_counted_as_the_host_counts_them(
    host: Host, upstream: Upstream, stream: bool
) -> None:
    upstream.answer = (
        streamed(line("Hel"), line(done=True), headers=NDJSON) if stream else whole("Hello")
    )
    await ask(HELLO | {"stream": stream}, target=PATH).end()
    await route_cache.close_current()
    row = await in_thread(Usage.objects.get)
    assert (row.requests, row.errors, row.tokens_in, row.tokens_out) == (1, 0, 7, 3)


@pytest.mark.fact(12)
async def test_a_profiles_runner_options_are_sent(host: Host, upstream: Upstream) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = whole("Hello")
    await ask(HELLO | {"options": {"num_ctx": 1}, "shift": False}, target=PATH).end()
    assert upstream.body()["options"] == {"num_ctx": 8192, "num_predict": 9}
    assert "shift" not in upstream.body()


async def test_names_that_clients_insist_on_map_by_the_hosts_policy(
    host: Host, upstream: Upstream
) -> None:
    upstream.answer = whole("Hello")
    await in_thread(set_policy, host, "strict", **{"claude-haiku": "tiny-a"})
    reply = await ask(HELLO | {"model": "claude-haiku"}, target=PATH).end()
    assert upstream.body()["model"] == reply.json()["model"] == "tiny-a"
    refused = await ask(HELLO, target=PATH).end()
    assert (refused.status, refused.json()["error"]["type"]) == (404, "not_found_error")
    assert "claude-sonnet-5" in refused.json()["error"]["message"]


@pytest.mark.parametrize("text", ['"mid-a" does not support thinking', "invalid think value"])
async def test_a_model_that_cannot_think_is_asked_again_without(
    host: Host, upstream: Upstream, text: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if json.loads(await request.read()).get("think"):
            return web.json_response({"error": text}, status=400)
        return await whole("Hello")(request)

    upstream.answer = answer
    reply = await ask(HELLO | {"thinking": {"type": "enabled"}}, target=PATH).end()
    assert (reply.status, len(upstream.received)) == (200, 2)
    assert reply.headers["x-switchboard-dropped"] == "thinking"


async def test_other_refusals_of_the_host_are_not_repeated(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": '"mid-a" does not support tools'}, status=400)

    upstream.answer = answer
    reply = await ask(HELLO | {"thinking": {"type": "enabled"}}, target=PATH).end()
    assert (reply.status, len(upstream.received)) == (400, 1)
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert "does not support tools" in reply.json()["error"]["message"]


def assert_error(reply: Exchange, status: int, kind: str) -> None:
    """Assert that a reply is an error in Anthropic's format."""
    body = reply.json()
    assert reply.status == status
    assert set(body) == {"type", "error", "request_id"}
    assert set(body["error"]) == {"type", "message"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == reply.headers["request-id"]


async def test_errors_have_anthropics_format(host: Host, upstream: Upstream, settings: Any) -> None:
    assert_error(await ask({}, target=PATH).end(), 400, "invalid_request_error")
    assert_error(await ask(b"{", target=PATH).end(), 400, "invalid_request_error")
    assert_error(await ask(target=PATH, method="GET").end(), 405, "invalid_request_error")
    assert_error(await ask({}, target=f"{PATH}/batches").end(), 404, "not_found_error")
    assert_error(await ask({}, target=f"/v1{PATH}").end(), 404, "not_found_error")
    settings.SWITCHER_OPEN_GATEWAY = False
    assert_error(await ask(HELLO, target=PATH).end(), 401, "authentication_error")
    assert not upstream.received


async def test_other_addresses_answer_anthropics_clients_in_their_format(host: Host) -> None:
    reply = await ask(target="/v1/none", method="GET", anthropic_version="2023-06-01").end()
    assert_error(reply, 404, "not_found_error")
    reply = await ask(target="/v1/none", method="GET").end()
    assert "param" in reply.json()["error"]


async def test_models_are_listed_in_the_format_of_the_clients_api(host: Host) -> None:
    version = {"anthropic_version": "2023-06-01"}
    listed = await ask(target="/v1/models?limit=20", method="GET", **version).end()
    (model,) = listed.json().pop("data")
    assert set(model) == {"type", "id", "display_name", "created_at"}
    assert (model["type"], model["id"]) == ("model", "mid-a")
    assert (listed.json()["first_id"], listed.json()["has_more"]) == ("mid-a", False)
    one = await ask(target="/v1/models/mid-a", method="GET", **version).end()
    assert one.json() == model
    assert (await ask(target="/v1/models", method="GET").end()).json()["object"] == "list"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "answered", "kind"),
    [
        (404, {"error": "model 'mid-a' not found"}, "not_found_error"),
        (503, {"error": "server busy"}, "overloaded_error"),
        (500, {"error": "unexpected EOF"}, "api_error"),
        (200, {"message": {"content": "Hel"}, "done": False}, "api_error"),
    ],
)
async def test_the_hosts_errors_come_in_anthropics_format(
    host: Host, upstream: Upstream, status: int, answered: Any, kind: str, stream: bool
) -> None:
    """Fact 10: a 200 is not a success."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(answered, status=status)

    upstream.answer = answer
    reply = await ask(HELLO | {"stream": stream}, target=PATH).end()
    assert_error(reply, 502 if status == 200 else status, kind)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (b"", "stopped before"),
        (b'{"error": "unexpected EOF"}\n', "unexpected EOF"),
        (b"<html>\n", "not JSON"),
    ],
)
async def test_a_stream_that_is_not_done_ends_with_an_error(
    host: Host, upstream: Upstream, rest: bytes, text: str
) -> None:
    found = await events(upstream, line("Hel"), rest)
    kind, data = found[-1]
    assert (kind, data["type"], data["error"]["type"]) == ("error", "error", "api_error")
    assert text in data["error"]["message"]
    assert "message_stop" not in [kind for kind, _ in found]
    await route_cache.close_current()
    row = await in_thread(Usage.objects.get)
    assert (row.errors, row.tokens_out) == (1, 1)


async def test_a_connection_that_breaks_is_an_error_event(host: Host, upstream: Upstream) -> None:
    upstream.answer = dying(NDJSON, [line("Hel")])
    reply = await ask(STREAM, target=PATH).end()
    assert events_of(reply.body)[-1][0] == "error"


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


COUNT = "/v1/messages/count_tokens"
LONG = {"model": "claude-x", "messages": [{"role": "user", "content": "word " * 200}]}


@pytest.fixture
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anthropic_tokens, "_learned", {})


async def count(body: Any = LONG) -> Any:
    reply = await ask(body, target=COUNT).end()
    assert reply.status == 200, reply.body
    assert set(reply.json()) == {"input_tokens"}
    return reply.json()["input_tokens"]


@pytest.mark.usefixtures("nothing_learned")
async def test_tokens_are_estimated_from_the_size_and_then_as_the_host_has_counted(
    host: Host, upstream: Upstream
) -> None:
    assert 240 <= await count() <= 260, "1,000 letters, at four a token"
    assert not upstream.received, "the host has no address that counts"
    upstream.answer = whole("Hello", prompt_eval_count=500)
    await ask(LONG | {"max_tokens": 9}, target=PATH).end()
    assert await count() == 500
    assert 990 <= await count(LONG | {"system": "word " * 200}) <= 1010


@pytest.mark.usefixtures("nothing_learned")
@pytest.mark.parametrize("tokens", [0, 9, 5000])
async def test_a_prompt_that_was_cut_teaches_nothing(
    host: Host, upstream: Upstream, tokens: int
) -> None:
    before = await count()
    upstream.answer = whole("Hello", prompt_eval_count=tokens)
    await ask(LONG | {"max_tokens": 9}, target=PATH).end()
    assert await count() == before


@pytest.mark.usefixtures("nothing_learned")
async def test_images_count_nothing_and_tools_do(host: Host) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "QUJD" * 1000}
    image = {"role": "user", "content": [{"type": "image", "source": source}]}
    assert await count({"messages": [image]}) < 10
    assert await count(LONG | {"tools": [{"name": "x" * 400}]}) > await count() + 90


async def test_counting_is_refused_like_a_message(host: Host) -> None:
    assert_error(await ask({}, target=COUNT).end(), 400, "invalid_request_error")
    assert_error(await ask(target=COUNT, method="GET").end(), 405, "invalid_request_error")


async def test_tokens_are_counted_for_names_of_the_hosts_policy(host: Host) -> None:
    await in_thread(set_policy, host, "strict")
    assert_error(await ask(LONG, target=COUNT).end(), 404, "not_found_error")


async def test_tokens_are_counted_during_a_switch_too(host: Host) -> None:
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    assert await count() > 0


async def test_the_key_comes_as_x_api_key(host: Host, upstream: Upstream, settings: Any) -> None:
    settings.SWITCHER_OPEN_GATEWAY = False
    upstream.answer = whole("Hello")
    _, token = await in_thread(make_key, NewKey("claude"), ADMIN)
    for target in (PATH, COUNT):
        reply = await ask(HELLO, target=target, x_api_key=token).end()
        assert reply.status == 200, reply.body


async def test_the_bounds_and_limits_of_a_key_hold(host: Host, upstream: Upstream) -> None:
    upstream.answer = whole("Hello")
    other = await in_thread(make.profile, "tiny-a")
    bound = NewKey("bound", profiles=(other.name,))
    _, token = await in_thread(make_key, bound, ADMIN)
    for target in (PATH, COUNT):
        refused = await ask(HELLO, target=target, x_api_key=token).end()
        assert_error(refused, 403, "permission_error")
    _, token = await in_thread(make_key, NewKey("slow", requests_a_minute=1), ADMIN)
    assert (await ask(HELLO, target=PATH, x_api_key=token).end()).status == 200
    limited = await ask(HELLO, target=PATH, x_api_key=token).end()
    assert_error(limited, 429, "rate_limit_error")
    assert int(limited.headers["retry-after"]) > 0
