"""OpenAI's and Ollama's API: paths, errors, and what the policy changes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.gateway import streaming
from switcher.models import Host
from switcher.records.clients import set_clients
from tests import make
from tests.gateway.conftest import ADMIN, Upstream, ask, set_active
from tests.until import PATIENCE_S

NDJSON = {"Content-Type": "application/x-ndjson"}
EVENTS = {"Content-Type": "text/event-stream"}


def streamed(*parts: bytes, headers: dict[str, str]) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    return answer


def set_policy(host: Host, policy: str, **names: str) -> None:
    """Set the policy, and aliases for profiles of these tags."""
    profiles = {name: make.profile(tag).name for name, tag in names.items()}
    set_clients(host.pk, ADMIN, policy=policy, names=profiles)


@pytest.mark.parametrize(
    ("path", "hosts_path"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/completions", "/v1/completions"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/responses", "/v1/responses"),
        ("/api/chat", "/api/chat"),
        ("/api/generate", "/api/generate"),
        ("/api/embed", "/api/embed"),
    ],
)
async def test_each_path_is_forwarded_to_the_hosts_own(
    host: Host, upstream: Upstream, path: str, hosts_path: str
) -> None:
    reply = await ask({"model": "gpt-4o", "input": "x", "stream": False}, target=path).end()
    assert reply.status == 200
    assert upstream.received[0][0] == hosts_path
    assert upstream.body() == {"model": "mid-a", "input": "x", "stream": False}
    assert reply.headers["x-switchboard-model"] == "mid-a"


async def test_what_would_reload_the_model_is_dropped_and_reported(
    host: Host, upstream: Upstream
) -> None:
    """Facts 12 and 13."""
    options = {"num_ctx": 99, "temperature": 0.5}
    sent = {"model": "x", "prompt": "Hi", "keep_alive": 0, "options": options, "stream": False}
    reply = await ask(sent, target="/api/generate").end()
    assert reply.headers["x-switchboard-dropped"] == "keep_alive, options.num_ctx"
    assert upstream.body()["options"] == {"temperature": 0.5}
    assert "keep_alive" not in upstream.body()


async def test_requests_of_ollamas_clients_carry_the_options_of_the_loaded_model(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    await ask({"model": "x", "prompt": "Hi", "stream": False}, target="/api/generate").end()
    assert upstream.body()["options"] == {"num_ctx": 8192}


async def test_a_completion_with_runner_options_uses_api_generate(
    host: Host, upstream: Upstream
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        generated = {"response": "Hi", "done": True, "prompt_eval_count": 3, "eval_count": 4}
        return web.json_response(generated)

    upstream.answer = answer
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    reply = await ask({"prompt": "Say Hi", "max_tokens": 5}, target="/v1/completions").end()
    assert upstream.received[0][0] == "/api/generate"
    assert upstream.body()["options"]["num_ctx"] == 8192
    assert reply.json()["choices"] == [{"text": "Hi", "index": 0, "finish_reason": "stop"}]
    assert reply.json()["usage"]["total_tokens"] == 7


async def test_embeddings_with_runner_options_use_api_embed(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"embeddings": [[0.5, 1.0]], "prompt_eval_count": 2})

    upstream.answer = answer
    await in_thread(set_active, host, Spec("e", "mid-a", options={"num_ctx": 512}))
    reply = await ask({"input": "x"}, target="/v1/embeddings").end()
    assert reply.json()["data"] == [{"object": "embedding", "embedding": [0.5, 1.0], "index": 0}]
    reply = await ask({"input": "x", "encoding_format": "base64"}, target="/v1/embeddings").end()
    assert reply.json()["data"][0]["embedding"] == "AAAAPwAAgD8="


async def test_a_path_that_cannot_carry_runner_options_is_refused(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    reply = await ask({"input": "x"}, target="/v1/responses").end()
    assert (reply.status, reply.json()["error"]["code"]) == (400, "not_with_these_options")
    assert not upstream.received


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_an_error_is_in_the_style_of_the_clients_api(host: Host, path: str) -> None:
    reply = await ask({}, target=path + "?host=nowhere").end()
    assert reply.status == 404
    error = reply.json()["error"]
    text = "There is no host named 'nowhere'."
    assert error == text if path == "/api/chat" else error["message"] == text


async def test_a_stream_of_lines_passes_unchanged(host: Host, upstream: Upstream) -> None:
    lines = b'{"message":{"content":"Hi"},"done":false}\n', b'{"done":true,"eval_count":2}\n'
    upstream.answer = streamed(*lines, headers=NDJSON)
    reply = await ask({"messages": []}, target="/api/chat").end()
    assert reply.body == b"".join(lines)
    assert reply.headers["content-type"] == "application/x-ndjson"


async def test_lines_that_stop_early_end_with_an_error_line(host: Host, upstream: Upstream) -> None:
    """Fact 10. The model's own `"done":true` is no end: its quotes are escaped."""
    line = json.dumps({"message": {"content": '"done":true'}, "done": False}).encode() + b"\n"
    upstream.answer = streamed(line, headers=NDJSON)
    reply = await ask({"messages": []}, target="/api/chat").end()
    last = json.loads(reply.body.splitlines()[-1])
    assert last == {"error": "The model stopped before its answer was complete."}


async def test_a_response_that_ends_with_its_event_is_complete(
    host: Host, upstream: Upstream
) -> None:
    end = b'event: response.completed\ndata: {"type":"response.completed"}\n\n'
    upstream.answer = streamed(b"event: response.created\ndata: {}\n\n", end, headers=EVENTS)
    reply = await ask({"input": "x", "stream": True}, target="/v1/responses").end()
    assert reply.body.endswith(end)


async def test_a_response_that_only_began_ends_with_an_error(
    host: Host, upstream: Upstream
) -> None:
    begun = b"event: response.created\ndata: {}\n\n"
    upstream.answer = streamed(begun, headers=EVENTS)
    reply = await ask({"input": "x", "stream": True}, target="/v1/responses").end()
    assert b"upstream_failed" in reply.body


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
SAID = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("cut", [1, 20, 60, 100, 130])
async def test_token_counts_are_removed_if_the_client_did_not_ask(
    host: Host, upstream: Upstream, cut: int
) -> None:
    whole = SAID + USAGE + DONE
    upstream.answer = streamed(whole[:cut], whole[cut:], headers=EVENTS)
    reply = await ask({"messages": [], "stream": True}).end()
    assert reply.body == SAID + DONE
    assert upstream.body()["stream_options"] == {"include_usage": True}


async def test_token_counts_stay_if_the_client_asked(host: Host, upstream: Upstream) -> None:
    upstream.answer = streamed(SAID, USAGE, DONE, headers=EVENTS)
    options = {"include_usage": True}
    reply = await ask({"messages": [], "stream": True, "stream_options": options}).end()
    assert reply.body == SAID + USAGE + DONE


async def test_a_host_that_falls_silent_times_out(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "NEXT_PART_TIMEOUT_S", 0.1)
    left = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        await response.write(SAID)
        await left.wait()
        return response

    upstream.answer = answer
    reply = await ask({"messages": [], "stream": True}).end()
    left.set()
    assert b"sent nothing for" in reply.body


@pytest.mark.parametrize(
    ("target", "headers", "parts"),
    [
        ("/v1/chat/completions", EVENTS, (SAID, DONE)),
        ("/api/chat", NDJSON, (b'{"done":false}\n', b'{"done":true}\n')),
    ],
)
async def test_a_tool_call_may_take_longer_between_two_parts(
    host: Host,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    headers: dict[str, str],
    parts: tuple[bytes, bytes],
) -> None:
    """Ollama sends it only when all of it has been generated."""
    monkeypatch.setattr(streaming, "NEXT_PART_TIMEOUT_S", 0.01)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(parts[0])
        await asyncio.sleep(0.3)
        await response.write(parts[1])
        return response

    upstream.answer = answer
    asked = {"messages": [], "stream": True}
    assert b"sent nothing for" in (await ask(asked, target=target).end()).body
    reply = await ask(asked | {"tools": [{"type": "function"}]}, target=target).end()
    assert reply.body == b"".join(parts)


async def test_a_connection_that_breaks_before_the_first_byte_is_retried_once(
    host: Host, upstream: Upstream
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if len(upstream.received) == 1:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"choices": []})

    upstream.answer = answer
    assert (await ask().end()).status == 200
    assert len(upstream.received) == 2


# --- policies -------------------------------------------------------------------------------


async def test_aliases_lead_to_their_profiles_and_other_names_to_the_active_model(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(set_policy, host, "names", small="tiny-a")
    await ask({"model": "small"}).end()
    await ask({"model": "small:latest"}).end()
    await ask({"model": "gpt-4o"}).end()
    asked = [json.loads(body)["model"] for path, body, _ in upstream.received if "chat" in path]
    assert asked == ["tiny-a", "tiny-a", "mid-a"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_strict_serves_only_known_names(host: Host, upstream: Upstream, path: str) -> None:
    await in_thread(set_policy, host, "strict", small="tiny-a")
    for name in ("small", "mid-a", "mid-a:latest"):
        assert (await ask({"model": name, "stream": False}, target=path).end()).status == 200
    reply = await ask({"model": "gpt-4o"}, target=path).end()
    assert reply.status == 404
    assert b"mid-a, small" in reply.body


async def test_lists_show_the_names_that_clients_may_use(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        rows = [{"name": f"{n}:latest", "model": n, "size": 7} for n in ("mid-a", "tiny-a", "x")]
        return web.json_response({"models": rows})

    upstream.answer = answer
    await in_thread(set_policy, host, "strict", small="tiny-a")
    reply = await ask(target="/v1/models", method="GET").end()
    assert [m["id"] for m in reply.json()["data"]] == ["mid-a", "small"]
    reply = await ask(target="/api/tags", method="GET").end()
    rows = [(m["name"], m["model"], m["size"]) for m in reply.json()["models"]]
    assert rows == [("mid-a:latest", "mid-a:latest", 7), ("small:latest", "small:latest", 7)]
    assert (await ask(target="/v1/models/small", method="GET").end()).json()["id"] == "small"
    assert (await ask(target="/v1/models/x", method="GET").end()).status == 404


@pytest.mark.parametrize("odd", [None, 5, {}, {"name": None}, {"name": ["x"]}])
async def test_an_odd_row_of_a_hosts_list_does_not_hide_the_others(
    host: Host, upstream: Upstream, odd: Any
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"models": [odd, {"name": "mid-a:latest"}]})

    upstream.answer = answer
    reply = await ask(target="/api/tags", method="GET").end()
    assert [row["name"] for row in reply.json()["models"]] == ["mid-a:latest"]


async def test_a_changed_policy_applies_without_a_restart(host: Host, upstream: Upstream) -> None:
    """Every request in between is answered by one of the two policies."""
    seen = []
    for policy in ("active", "strict", "active"):
        await in_thread(set_clients, host.pk, ADMIN, policy=policy)
        async with asyncio.timeout(PATIENCE_S):
            expected = 404 if policy == "strict" else 200
            while (reply := await ask({"model": "gpt-4o"}).end()).status != expected:
                seen.append(reply.status)
    assert set(seen) <= {200, 404}


async def test_show_describes_the_model_that_the_client_would_get(
    host: Host, upstream: Upstream
) -> None:
    reply = await ask({"model": "gpt-4o"}, target="/api/show").end()
    assert (upstream.received[0][0], upstream.body()) == ("/api/show", {"model": "mid-a"})
    assert reply.headers["x-switchboard-model"] == "mid-a"


@pytest.mark.parametrize("path", ["/api/ps", "/api/version"])
async def test_what_the_host_says_about_itself_passes_unchanged(
    host: Host, upstream: Upstream, path: str
) -> None:
    reply = await ask(target=path, method="GET").end()
    assert (reply.status, upstream.received[0][0]) == (200, path)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("path", ["/api/nothing", "/api", "/v1", "/v1/nothing"])
async def test_an_unknown_path_is_404_in_the_style_of_its_api(
    host: Host, method: str, path: str
) -> None:
    reply = await ask({}, target=path, method=method).end()
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    error = reply.json()["error"]
    assert path in (error if path.startswith("/api") else error["message"])
