"""What a client sends may not change the model for all: on every address, streamed or not."""

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
    "options": {"num_ctx": 99, "draft_num_predict": 1, "use_mlock": True, "temperature": 0.5},
}
DROPPED = "keep_alive, options.draft_num_predict, options.num_ctx, options.use_mlock"


@pytest.mark.fact(12)
@pytest.mark.fact(13)
@pytest.mark.parametrize("path", WHOLE)
async def test_a_whole_answer_says_what_was_dropped(
    host: Host, upstream: Upstream, path: str
) -> None:
    got = await ask({**GREEDY, "stream": False}, target=path).end()
    assert (got.status, got.headers["x-switchboard-dropped"]) == (200, DROPPED)
    assert upstream.body()["options"] == {"temperature": 0.5}
    assert "keep_alive" not in upstream.body()


@pytest.mark.fact(12)
@pytest.mark.fact(13)
@pytest.mark.parametrize("path", ENDS)
async def test_a_stream_says_it_too(host: Host, upstream: Upstream, path: str) -> None:
    headers, end = ENDS[path]
    upstream.answer = streamed(end, headers=headers)
    got = await ask({**GREEDY, "stream": True}, target=path).end()
    assert (got.status, got.headers["x-switchboard-dropped"]) == (200, DROPPED)
    assert upstream.body()["options"] == {"temperature": 0.5}
    assert "keep_alive" not in upstream.body()


# What Ollama's own addresses are not asked for, where a request of OpenAI's goes to one of them.
FURTHER = {
    "/v1/chat/completions": ", input, options.temperature, prompt",
    "/v1/completions": ", input, messages, options.temperature",
    "/api/chat": "",
}


@pytest.mark.parametrize("path", FURTHER)
async def test_it_is_said_too_where_the_profiles_own_options_go_along(
    host: Host, upstream: Upstream, path: str
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = streamed(b'{"message":{},"done":true}\n', headers=NDJSON)
    got = await ask({**GREEDY, "stream": True}, target=path).end()
    assert (got.status, got.headers["x-switchboard-dropped"]) == (200, DROPPED + FURTHER[path])
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
    said = {"message": {}, "response": "", "embeddings": [[0.5]], "done": True}
    return web.json_response(said)


@pytest.mark.parametrize("path", OF_OPENAI)
async def test_what_ollamas_own_address_cannot_say_is_named(
    host: Host, upstream: Upstream, path: str
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = of_ollama
    got = await ask({"model": "x", **OF_OPENAI[path]}, target=path).end()
    assert (got.status, got.headers["x-switchboard-dropped"]) == (200, NOT_MAPPED[path])
    assert upstream.asked[-1][0].startswith("/api/")


async def test_what_is_mapped_or_null_is_not(host: Host, upstream: Upstream) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = of_ollama
    mapped = {"messages": [], "temperature": 0, "stop": "x", "max_completion_tokens": 5, "seed": 1}
    asked = mapped | {"tools": [], "reasoning_effort": "low", "response_format": {"type": "text"}}
    got = await ask({"model": "x", "logprobs": None, "stream": False, **asked}).end()
    assert (got.status, "x-switchboard-dropped" in got.headers) == (200, False)


async def test_all_goes_along_where_the_profile_sets_no_runner_options(
    host: Host, upstream: Upstream
) -> None:
    got = await ask({"model": "x", **OF_OPENAI["/v1/chat/completions"]}).end()
    assert "x-switchboard-dropped" not in got.headers
    assert upstream.body()["top_logprobs"] == 2


async def test_a_name_that_no_header_can_carry_is_counted_among_others(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = of_ollama
    odd = {"a\r\nset-cookie: x": 1, "b,c": 1, "n": 2, "x" * 5000: 1}
    got = await ask({"model": "x", "messages": [], **odd}).end()
    assert got.headers["x-switchboard-dropped"] == "n, others"
    many = {f"m{n}": 1 for n in range(5000)}
    got = await ask({"model": "x", "messages": [], **many}).end()
    assert got.headers["x-switchboard-dropped"].count(",") == 20


async def test_a_request_that_asks_for_nothing_special_has_no_such_header(
    host: Host, upstream: Upstream
) -> None:
    got = await ask({"model": "x", "options": {"temperature": 1}}, target="/api/embed").end()
    assert "x-switchboard-dropped" not in got.headers


@pytest.mark.parametrize(
    "sent",
    [
        b'{"model":"x","Keep_Alive":"24h","OPTIONS":{"num_ctx":99}}',
        b'{"Model":"other","\\u212aEEP_ALIVE":0}',  # a Kelvin sign, which Go takes for a k
        b'{"model":"x","MODEL":"other"}',
        b'{"options":{"num_ctx":99},"options":{}}',  # Go reads both into one
        b'{"option\\u017f":{"num_gpu":0}}',  # a long s
    ],
)
async def test_nothing_goes_past_it_by_how_it_is_written(
    host: Host, upstream: Upstream, sent: bytes
) -> None:
    """Ollama compares the names of members as Go does, without their case."""
    await ask(sent, target="/api/embed").end()
    passed = {name.casefold(): value for name, value in upstream.body().items()}
    assert passed.pop("model") == "mid-a"
    assert passed.pop("options", {}) == {}
    assert passed == {}


def test_options_that_are_none_stay_as_they_were_written() -> None:
    sent = b'{"model":"x","options":null}'
    assert parse(sent).for_model("mid-a") == b'{"model":"mid-a","options":null}'
