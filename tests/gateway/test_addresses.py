"""Addresses as clients put them together, from a base URL and a path of their own."""

from __future__ import annotations

import pytest
from aiohttp import web

from switcher.gateway.addresses import is_gateway_path
from switcher.models import Host
from tests.gateway.conftest import Upstream, ask


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/v1//chat/completions//", "/v1/chat/completions"),
        ("/chat/completions/", "/v1/chat/completions"),
        ("//api/chat", "/api/chat"),
        ("/api/embed/", "/api/embed"),
        ("/api/show/", "/api/show"),
    ],
)
async def test_slashes_too_many_are_ignored(
    host: Host, upstream: Upstream, asked: str, served: str
) -> None:
    assert is_gateway_path(asked)
    reply = await ask({"model": "x", "stream": False}, target=asked).end()
    assert (reply.status, upstream.received[-1][0]) == (200, served)


@pytest.mark.parametrize("asked", ["/v1/models/", "//v1/models", "/v1/models?a=b", "/v1/models/?"])
async def test_lists_are_served_with_slashes_and_parameters(
    host: Host, upstream: Upstream, asked: str
) -> None:
    reply = await ask(target=asked, method="GET").end()
    assert [row["id"] for row in reply.json()["data"]] == ["mid-a"]


@pytest.mark.parametrize("asked", ["/api/tags", "//api/tags", "/api/tags/"])
async def test_ollamas_list_is_served_with_slashes(
    host: Host, upstream: Upstream, asked: str
) -> None:
    async def tags(request: web.Request) -> web.StreamResponse:
        return web.json_response({"models": [{"name": "mid-a:latest", "model": "mid-a:latest"}]})

    upstream.answer = tags
    assert is_gateway_path(asked)
    reply = await ask(target=asked, method="GET").end()
    assert [row["name"] for row in reply.json()["models"]] == ["mid-a:latest"]


WRONG = {
    "/v1/v1/chat/completions": "/v1/chat/completions",
    "/v1/v1/models": "/v1/models",
    "/v1/v1/models/mid-a": "/v1/models/mid-a",
    "/v1/chat/completions/chat/completions": "/v1/chat/completions",
    "/api/v1/chat/completions": "/v1/chat/completions",
    "/api/v1/models": "/v1/models",
    "/api/api/chat": "/api/chat",
    "/v1/api/chat": "/api/chat",
    "/v1/api/tags": "/api/tags",
    "/v1/chat": "/api/chat",
    "/api/chat/completions": "/v1/chat/completions",
    "/models": "/v1/models",
    "/models/": "/v1/models",
    "/models/mid-a": "/v1/models/mid-a",
    "/completions": "/v1/completions",
    "/embeddings": "/v1/embeddings",
    "/responses": "/v1/responses",
    "/openai/v1/chat/completions": "/v1/chat/completions",
    "/v1/v1/messages": "/v1/messages",
    "/v1/v1/messages/count_tokens": "/v1/messages/count_tokens",
    "/messages": "/v1/messages",
    "/anthropic/v1/messages": "/v1/messages",
    "/openai/deployments/mid-a/chat/completions": "/v1/chat/completions",
}


@pytest.mark.parametrize("asked", WRONG)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_wrong_base_url_is_a_404_that_names_the_right_address(
    host: Host, upstream: Upstream, asked: str, method: str
) -> None:
    assert is_gateway_path(asked)
    reply = await ask({}, target=asked, method=method).end()
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    error = reply.json()["error"]
    text = error if WRONG[asked].startswith("/api") else error["message"]
    assert f"The right address is {WRONG[asked]}:" in text
    assert not upstream.received


@pytest.mark.parametrize("asked", ["/v1/nothing", "/api/v2", "/v1/models", "/v1" + "/v1" * 9])
async def test_no_address_is_named_that_nobody_can_mean(host: Host, asked: str) -> None:
    reply = await ask({}, target=asked).end()
    assert "right address" not in reply.body.decode()


@pytest.mark.parametrize(
    "path", ["/", "/hosts/", "/keys/", "/model", "/api/docs/", "//ollama/models"]
)
def test_addresses_of_pages_and_control_api_are_left_alone(path: str) -> None:
    assert not is_gateway_path(path)


async def test_an_address_that_only_newer_servers_have_is_a_404_that_says_so(
    host: Host, upstream: Upstream
) -> None:
    async def older(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="404 page not found")

    upstream.answer = older
    reply = await ask(target="/api/status", method="GET").end()
    assert (reply.status, reply.json()) == (
        404,
        {"error": "The server of tower has no /api/status."},
    )
