"""Prompts that are longer than the loaded context: Ollama cuts them and does not say so."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.gateway import route_cache
from switcher.models import Host, Usage
from switcher.records import readings
from tests import make
from tests.gateway.conftest import HELLO, Upstream, ask

HEADER = "x-switchboard-prompt-cut"
CONTEXT = 2048
LONG_CHAT = {"messages": [{"role": "user", "content": "word " * 300}] * 10}
STREAMS = [
    ("/v1/chat/completions", b'data: {"usage":{"prompt_tokens":2048}}\n\ndata: [DONE]\n\n'),
    ("/api/chat", b'{"done":true,"prompt_eval_count":2048}\n'),
]


async def see_loaded(host: Host, version: str) -> None:
    """Let the watcher see mid-a loaded, with a context of CONTEXT."""
    row = make.resident("mid-a", context_length=CONTEXT)
    seen = make.seen(row, at=datetime.now(UTC), version=version)
    await in_thread(readings.store, host.pk, seen, 0)


@pytest_asyncio.fixture
async def loaded(host: Host) -> Host:
    await see_loaded(host, "0.24.0")
    return host


def answer_with(upstream: Upstream, tokens: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"done": True, "prompt_eval_count": tokens, "usage": {}})

    upstream.answer = answer


async def counted() -> int:
    await route_cache.close_current()
    row = await in_thread(Usage.objects.get)
    assert (row.last_cut_at is not None) == bool(row.cut_prompts)
    return int(row.cut_prompts)


CASES: list[tuple[str, str, dict[str, Any], int, bool]] = [
    ("at the edge", "/api/chat", {}, CONTEXT, True),
    ("no room for a reply", "/api/generate", {"prompt": "x"}, CONTEXT - 5, True),
    ("fits", "/api/chat", {}, CONTEXT - 300, False),
    ("a chat without its oldest messages", "/api/chat", LONG_CHAT, CONTEXT - 300, True),
    ("one input", "/api/embed", {"input": "x"}, CONTEXT, True),
    ("several inputs", "/api/embed", {"input": ["x", "y"]}, CONTEXT, False),
    ("half of the context, which only newer ones leave", "/api/chat", {}, 1026, False),
]


@pytest.mark.fact(30)
@pytest.mark.parametrize(("case", "path", "sent", "tokens", "cut"), CASES, ids=lambda v: str(v)[:9])
async def test_a_cut_prompt_is_named_in_a_header_and_counted(
    loaded: Host,
    upstream: Upstream,
    case: str,
    path: str,
    sent: dict[str, Any],
    tokens: int,
    cut: bool,
) -> None:
    answer_with(upstream, tokens)
    reply = await ask({"model": "x", "stream": False, **sent}, target=path).end()
    assert reply.status == 200
    assert reply.headers.get(HEADER) == (str(CONTEXT) if cut else None)
    assert await counted() == cut


@pytest.mark.fact(30)
@pytest.mark.parametrize(
    ("tokens", "options", "cut"),
    [(1026, {}, True), (1044, {"num_keep": 40}, True), (900, {}, False)],
)
async def test_newer_servers_leave_half_of_a_prompt(
    host: Host, upstream: Upstream, tokens: int, options: dict[str, Any], cut: bool
) -> None:
    await see_loaded(host, "0.32.1")
    answer_with(upstream, tokens)
    body = {"model": "x", "prompt": "word", "options": options, "stream": False}
    assert (HEADER in (await ask(body, target="/api/generate").end()).headers) == cut


@pytest.mark.parametrize(("path", "stream"), STREAMS)
async def test_a_cut_prompt_of_a_stream_is_counted(
    loaded: Host, upstream: Upstream, path: str, stream: bytes
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        kind = "text/event-stream" if path.startswith("/v1") else "application/x-ndjson"
        return web.Response(body=stream, content_type=kind)

    upstream.answer = answer
    assert (await ask({**HELLO, "stream": True}, target=path).end()).status == 200
    assert await counted() == 1


async def test_images_are_no_text(loaded: Host, upstream: Upstream) -> None:
    answer_with(upstream, CONTEXT - 300)
    message = {"role": "user", "content": "What is this?", "images": ["A" * 100_000]}
    body = {"model": "x", "messages": [message], "stream": False}
    assert HEADER not in (await ask(body, target="/api/chat").end()).headers


async def test_nothing_is_counted_where_the_context_is_unknown(
    host: Host, upstream: Upstream
) -> None:
    answer_with(upstream, 4096)
    reply = await ask({**HELLO, "stream": False}, target="/api/chat").end()
    assert HEADER not in reply.headers
    assert await counted() == 0


async def test_anthropics_clients_are_told_as_well(loaded: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        said = {"message": {"role": "assistant", "content": "Hi"}, "done": True}
        row = {**said, "done_reason": "stop", "prompt_eval_count": CONTEXT, "eval_count": 1}
        return web.Response(text=json.dumps(row), content_type="application/json")

    upstream.answer = answer
    body = {**HELLO, "max_tokens": 5}
    reply = await ask(body, target="/v1/messages", anthropic_version="2023-06-01").end()
    assert (reply.status, reply.headers.get(HEADER)) == (200, str(CONTEXT))
