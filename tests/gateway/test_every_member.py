"""Members that clients of either API send, and that must reach the host or come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.models import Host
from tests.gateway.conftest import Upstream, ask, set_active
from tests.gateway.test_api_styles import EVENTS, NDJSON, streamed

FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
MESSAGES = [{"role": "user", "content": "Hi"}]
SENT: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "def f(", "suffix": "return 1"}),
    ("/v1/chat/completions", {"stream_options": {"include_usage": True}}),
    ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 8}),
    ("/v1/embeddings", {"input": [1, 2, 3], "user": "anna"}),
    ("/v1/chat/completions", {"reasoning_effort": "high"}),
    ("/v1/chat/completions", {"reasoning_effort": "none", "reasoning": {"effort": "low"}}),
    ("/v1/chat/completions", {"functions": [FUNCTION], "function_call": "auto"}),
    ("/v1/chat/completions", {"tools": [{"type": "function", "function": FUNCTION}]}),
    ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 3, "n": 1}),
    ("/v1/chat/completions", {"think": False}),
    *[(path, {"think": v}) for path in ("/api/chat", "/api/generate") for v in (True, False)],
    *[("/api/chat", {"think": v}) for v in ("low", "medium", "high", "max", None)],
    ("/api/chat", {"logprobs": True, "top_logprobs": 3}),
    ("/api/chat", {"format": {"type": "object"}, "truncate": False}),
    ("/api/generate", {"suffix": "x", "raw": True, "template": "t", "system": "s", "context": [1]}),
    ("/api/generate", {"width": 64, "height": 64, "steps": 2}),
    ("/api/embed", {"input": "x", "truncate": False, "dimensions": 8}),
]


@pytest.mark.parametrize(("path", "members"), SENT)
async def test_it_reaches_the_host_as_it_was_sent(
    host: Host, upstream: Upstream, path: str, members: dict[str, Any]
) -> None:
    body = {"model": "x", "messages": MESSAGES, "stream": False, **members}
    reply = await ask(body, target=path).end()
    assert (reply.status, upstream.body()) == (200, body | {"model": "mid-a"})
    assert "x-switchboard-dropped" not in reply.headers


EFFORTS = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
}


@pytest.mark.parametrize("effort", EFFORTS)
async def test_an_effort_is_translated_as_ollama_does(
    host: Host, upstream: Upstream, effort: str
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    await ask({"model": "x", "messages": MESSAGES, "reasoning_effort": effort}).end()
    assert upstream.body()["think"] == EFFORTS[effort]


async def test_a_suffix_is_translated(host: Host, upstream: Upstream) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = whole
    sent = {"model": "x", "prompt": "def f(", "suffix": "return 1"}
    assert (await ask(sent, target="/v1/completions").end()).status == 200
    assert (upstream.body()["prompt"], upstream.body()["suffix"]) == ("def f(", "return 1")


async def whole(request: web.Request) -> web.StreamResponse:
    return web.json_response({"response": "x", "message": {"content": "x"}, "done": True})


@pytest.mark.parametrize("asked", [True, False])
async def test_a_translated_stream_ends_with_usage_only_if_asked_for(
    host: Host, upstream: Upstream, asked: bool
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    end = {"message": {"content": ""}, "done": True, "prompt_eval_count": 3, "eval_count": 2}
    upstream.answer = streamed(json.dumps(end).encode() + b"\n", headers=NDJSON)
    options = {"stream_options": {"include_usage": asked}}
    reply = await ask({"model": "x", "messages": MESSAGES, "stream": True, **options}).end()
    usage = [event["usage"] for event in reply.events()[:-1] if event.get("usage")]
    assert [row["total_tokens"] for row in usage] == ([5] if asked else [])


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_ends_with_usage_only_if_asked_for(
    host: Host, upstream: Upstream, asked: bool
) -> None:
    text = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    counts = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    upstream.answer = streamed(text, counts, b"data: [DONE]\n\n", headers=EVENTS)
    options = {"stream_options": {"include_usage": asked}}
    reply = await ask({"model": "x", "messages": MESSAGES, "stream": True, **options}).end()
    assert reply.body == text + (counts if asked else b"") + b"data: [DONE]\n\n"


async def test_functions_that_a_translation_cannot_carry_are_named(
    host: Host, upstream: Upstream
) -> None:
    """Ollama's own /v1 does not read them either."""
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = whole
    sent = {"model": "x", "messages": MESSAGES, "functions": [FUNCTION], "function_call": "auto"}
    reply = await ask(sent).end()
    assert reply.status == 200
    assert reply.headers["x-switchboard-dropped"] == "function_call, functions"
