"""What a client sends may not change the model for all: on every address, streamed or not."""

from __future__ import annotations

from typing import Any

import pytest

from switcher.gateway.body import parse
from switcher.models import Host
from switcher.specs import Spec
from switcher.switching.waiting import in_thread
from tests.gateway.conftest import Upstream, ask, set_active
from tests.gateway.test_shapes import EVENTS, NDJSON, streamed

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


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/api/chat"])
async def test_it_is_said_too_where_the_profiles_own_options_go_along(
    host: Host, upstream: Upstream, path: str
) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    upstream.answer = streamed(b'{"message":{},"done":true}\n', headers=NDJSON)
    got = await ask({**GREEDY, "stream": True}, target=path).end()
    assert (got.status, got.headers["x-switchboard-dropped"]) == (200, DROPPED)
    assert upstream.body()["options"]["num_ctx"] == 8192
    assert "draft_num_predict" not in upstream.body()["options"]


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
