"""The requests of programs that are not Python packages, as their sources write them
(docs/clients.md).
"""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from switcher.models import Host
from tests.gateway.conftest import Upstream, ask

CONTINUE: dict[str, Any] = {
    "model": "qwen2.5-coder:7b",
    "options": {
        "temperature": 0.2,
        "num_predict": 400,
        "stop": ["x"],
        "num_ctx": 8192,
        "num_thread": 8,
        "use_mmap": True,
    },
    "keep_alive": 1800,
    "stream": False,
}
KEPT = {"temperature": 0.2, "num_predict": 400, "stop": ["x"]}


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/api/generate", {"prompt": "def f(", "suffix": "return", "raw": True}),
    ],
)
async def test_continue_does_not_reload_the_model(
    host: Host, upstream: Upstream, path: str, more: dict[str, Any]
) -> None:
    reply = await ask(CONTINUE | more, target=path).end()
    assert upstream.body() == {"model": "mid-a", "options": KEPT, "stream": False, **more}
    assert reply.headers["x-switchboard-dropped"] == (
        "keep_alive, options.num_ctx, options.num_thread, options.use_mmap"
    )


async def test_continue_is_shown_the_model_that_answers(host: Host, upstream: Upstream) -> None:
    await ask({"name": "qwen2.5-coder:7b"}, target="/api/show").end()
    assert upstream.body()["model"] == "mid-a"


@pytest.mark.parametrize("tokens", [100, 5000])
async def test_aiders_changing_context_length_changes_nothing(
    host: Host, upstream: Upstream, tokens: int
) -> None:
    options = {"num_ctx": int(tokens * 1.25) + 8192}
    sent = {"model": "mid-a", "messages": [], "options": options, "stream": False}
    await ask(sent, target="/api/chat").end()
    assert upstream.body()["options"] == {}


async def test_open_webui_verifies_its_connection_and_lists_models(
    host: Host, upstream: Upstream
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        row = {
            "name": "mid-a:latest",
            "model": "mid-a:latest",
            "expires_at": "2030-01-01T00:00:00Z",
        }
        is_list = request.path != "/api/version"
        return web.json_response({"models": [row]} if is_list else {"version": "0.12.0"})

    upstream.answer = answer
    headers = {"Content_Type": "application/json"}
    version = await ask(target="/api/version", method="GET", **headers).end()
    assert version.json() == {"version": "0.12.0"}
    for path in ("/api/tags", "/api/ps"):
        reply = await ask(target=path, method="GET", **headers).end()
        assert [row["model"] for row in reply.json()["models"]] == ["mid-a:latest"]


async def test_n8n_tests_its_credentials_with_the_root(host: Host, upstream: Upstream) -> None:
    headers = {"Accept": "application/json, text/plain, */*"}  # axios
    reply = await ask(target="/", method="GET", **headers).end()
    assert (reply.status, reply.body) == (200, b"Ollama is running")
