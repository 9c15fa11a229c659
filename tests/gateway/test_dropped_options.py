"""What a client sends never changes the model for everyone: on every path, streamed or not."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.gateway.body import parse
from switcher.models import Host
from tests.gateway.conftest import Upstream, ask, set_active
from tests.gateway.test_api_styles import EVENTS, NDJSON, streamed

ENDS = {
    "/v1/chat/completions": (EVENTS, b"data: [DONE]\n\n"),
    "/v1/completions": (EVENTS, b"data: [DONE]\n\n"),
    "/v1/responses": (EVENTS, b"event: response.completed\ndata: {}\n\n"),
    "/api/chat": (NDJSON, b'{"message":{},"done":true}\n'),
    "/api/generate": (NDJSON, b'{"response":"","done":true}\n'),
}
WHOLE = ("/v1/embeddings", "/api/embed", "/api/embeddings", *ENDS)
GREEDY: dict[str, Any] = {
    "model": "gpt-4o",
    "prompt": "Hi",
    "messages": [],
    "input": "Hi",
    "keep_alive": "24h",
    "shift": False,
    "options": {"num_ctx": 99, "draft_num_predict": 1, "use_mlock": True, "temperature": 0.5},
}
DROPPED = "keep_alive, shift, options.draft_num_predict, options.num_ctx, options.use_mlock"


@pytest.mark.fact(12)
@pytest.mark.fact(13)
@pytest.mark.parametrize("path", WHOLE)
async def test_a_whole_reply_names_what_was_dropped(
    host: Host, upstream: Upstream, path: str
) -> None:
    reply = await ask({**GREEDY, "stream": False}, target=path).end()
    assert (reply.status, reply.headers["x-switchboard-dropped"]) == (200, DROPPED)
    assert upstream.body()["options"] == {"temperature": 0.5}
    assert not {"keep_alive", "shift"} & upstream.body().keys()


@pytest.mark.fact(12)
@pytest.mark.fact(13)
@pytest.mark.parametrize("path", ENDS)
async def test_a_stream_names_what_was_dropped(host: Host, upstream: Upstream, path: str) -> None:
    headers, end = ENDS[path]
    upstream.answer = streamed(end, headers=headers)
    reply = await ask({**GREEDY, "stream": True}, target=path).end()
    assert (reply.status, reply.headers["x-switchboard-dropped"]) == (200, DROPPED)
    assert upstream.body()["options"] == {"temperature": 0.5}
    assert not {"keep_alive", "shift"} & upstream.body().keys()


# Members that are dropped as well when a request of OpenAI's is translated to Ollama's API.
UNMAPPED = {
    "/v1/chat/completions": ", input, options.temperature, prompt",
    "/v1/completions": ", input, messages, options.temperature",
    "/api/chat": "",
}


@pytest.mark.parametrize("path", UNMAPPED)
async def test_it_is_named_too_if_the_profile_has_runner_options(
    host: Host, upstream: Upstream, path: str
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = streamed(b'{"message":{},"done":true}\n', headers=NDJSON)
    reply = await ask({**GREEDY, "stream": True}, target=path).end()
    assert (reply.status, reply.headers["x-switchboard-dropped"]) == (200, DROPPED + UNMAPPED[path])
    assert upstream.body()["options"]["num_ctx"] == 8192
    assert "draft_num_predict" not in upstream.body()["options"]


OF_OPENAI = {
    "/v1/chat/completions": {"messages": [], "logprobs": True, "top_logprobs": 2, "n": 2},
    "/v1/completions": {"prompt": "Hi", "logprobs": 2, "echo": True, "logit_bias": {"5": 1}},
    "/v1/embeddings": {"input": "Hi", "user": "anna", "keep_alive": 0},
}
NOT_MAPPED = {
    "/v1/chat/completions": "logprobs, n, top_logprobs",
    "/v1/completions": "echo, logit_bias, logprobs",
    "/v1/embeddings": "keep_alive, user",
}


async def of_ollama(request: web.Request) -> web.StreamResponse:
    reply = {"message": {}, "response": "", "embeddings": [[0.5]], "done": True}
    return web.json_response(reply)


@pytest.mark.parametrize("path", OF_OPENAI)
async def test_members_that_ollamas_own_api_lacks_are_named(
    host: Host, upstream: Upstream, path: str
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = of_ollama
    reply = await ask({"model": "x", **OF_OPENAI[path]}, target=path).end()
    assert (reply.status, reply.headers["x-switchboard-dropped"]) == (200, NOT_MAPPED[path])
    assert upstream.received[-1][0].startswith("/api/")


async def test_members_that_are_mapped_or_null_are_not_named(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = of_ollama
    mapped = {"messages": [], "temperature": 0, "stop": "x", "max_completion_tokens": 5, "seed": 1}
    asked = mapped | {"tools": [], "reasoning_effort": "low", "response_format": {"type": "text"}}
    reply = await ask({"model": "x", "logprobs": None, "stream": False, **asked}).end()
    assert (reply.status, "x-switchboard-dropped" in reply.headers) == (200, False)


async def test_without_runner_options_everything_is_forwarded(
    host: Host, upstream: Upstream
) -> None:
    reply = await ask({"model": "x", **OF_OPENAI["/v1/chat/completions"]}).end()
    assert "x-switchboard-dropped" not in reply.headers
    assert upstream.body()["top_logprobs"] == 2


async def test_names_that_a_header_cannot_carry_are_called_others(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = of_ollama
    odd = {"a\r\nset-cookie: x": 1, "b,c": 1, "n": 2, "x" * 5000: 1}
    reply = await ask({"model": "x", "messages": [], **odd}).end()
    assert reply.headers["x-switchboard-dropped"] == "n, others"
    many = {f"m{n}": 1 for n in range(5000)}
    reply = await ask({"model": "x", "messages": [], **many}).end()
    assert reply.headers["x-switchboard-dropped"].count(",") == 20


async def test_an_ordinary_request_gets_no_such_header(host: Host, upstream: Upstream) -> None:
    reply = await ask({"model": "x", "options": {"temperature": 1}}, target="/api/embed").end()
    assert "x-switchboard-dropped" not in reply.headers


@pytest.mark.parametrize(
    "sent",
    [
        b'{"model":"x","Keep_Alive":"24h","OPTIONS":{"num_ctx":99}}',
        b'{"Model":"other","\\u212aEEP_ALIVE":0}',  # a Kelvin sign, which Go takes for a k
        b'{"model":"x","MODEL":"other"}',
        b'{"model":"x","Shift":false}',
        b'{"\\u017fHIFT":false,"shift":true}',
        b'{"options":{"num_ctx":99},"options":{}}',  # Go reads both into one
        b'{"option\\u017f":{"num_gpu":0}}',  # a long s
    ],
)
async def test_spelling_does_not_bypass_the_policy(
    host: Host, upstream: Upstream, sent: bytes
) -> None:
    """Ollama compares names of members as Go does, without regard to case."""
    await ask(sent, target="/api/embed").end()
    passed = {name.casefold(): value for name, value in upstream.body().items()}
    assert passed.pop("model") == "mid-a"
    assert passed.pop("options", {}) == {}
    assert passed == {}


def test_options_that_are_no_object_stay_as_written() -> None:
    sent = b'{"model":"x","options":null}'
    assert parse(sent).for_model("mid-a") == b'{"model":"mid-a","options":null}'
