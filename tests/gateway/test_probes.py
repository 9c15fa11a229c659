"""Requests by which clients find out whether an Ollama server is here, and who is signed in."""

from __future__ import annotations

from typing import Any

import pytest

import project.asgi
from switcher.models import Host
from tests.gateway.conftest import Exchange, Upstream, ask


def scope(method: str, path: str = "/", **headers: str) -> dict[str, Any]:
    pairs = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": pairs}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("headers", [{}, {"accept": "*/*"}, {"accept": "application/json"}])
def test_a_probe_is_the_gateways(method: str, headers: dict[str, str]) -> None:
    assert project.asgi.is_gateway_request(scope(method, **headers))
    assert project.asgi.is_gateway_request(scope(method, "//", **headers))


@pytest.mark.parametrize(
    "headers",
    [{"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}, {"cookie": "session_id=x"}],
)
def test_browsers_and_signed_in_people_get_the_page(headers: dict[str, str]) -> None:
    assert not project.asgi.is_gateway_request(scope("GET", **headers))
    assert not project.asgi.is_gateway_request(scope("POST", accept="*/*"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_it_is_answered_as_by_ollama_without_a_key(
    host: Host, upstream: Upstream, settings: Any, method: str
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = False
    reply = await ask(target="/", method=method, client="192.0.2.7").end()
    assert (reply.status, reply.body) == (200, b"Ollama is running")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert not upstream.received


async def test_a_probe_for_another_servers_name_is_refused(host: Host) -> None:
    assert (await ask(target="/", method="GET", Host="evil.example").end()).status == 400


@pytest.mark.parametrize("path", ["/api/tags", "/api/version", "/api/status", "/v1/models"])
async def test_head_is_answered_like_get(host: Host, upstream: Upstream, path: str) -> None:
    if path == "/api/tags":
        upstream.answer = tags
    asked: list[Exchange] = [await ask(target=path, method=m).end() for m in ("GET", "HEAD")]
    assert [reply.status for reply in asked] == [200, 200]


async def tags(request: Any) -> Any:
    from aiohttp import web

    return web.json_response({"models": []})


async def test_the_hosts_account_is_not_told(host: Host, upstream: Upstream) -> None:
    reply = await ask({}, target="/api/me").end()
    assert (reply.status, reply.json()) == (401, {"error": "unauthorized"})
    assert (await ask(target="/api/me", method="GET").end()).status == 405
    assert not upstream.received
