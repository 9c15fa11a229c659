"""Anthropic's API: what goes to the host, and what the client gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.gateway import route_cache
from switcher.models import Host, Usage
from switcher.records.keys import NewKey, make_key
from tests import make
from tests.gateway.conftest import ADMIN, Exchange, Upstream, ask, set_active
from tests.gateway.test_api_styles import set_policy, streamed
from tests.gateway.test_stream_errors import dying, events_of

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
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
    async def answer(request: web.Request) -> web.StreamResponse:
        return await (upstream.completion if "tags" in request.path else whole("Hello"))(request)

    upstream.answer = answer
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
