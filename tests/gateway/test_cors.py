"""Pages of other origins, which use the gateway from a browser."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client

from project.environment import gateway_origins, read_environment
from switcher.concurrency.threads import in_thread
from switcher.models import Host
from tests.gateway.conftest import Exchange, Upstream, ask
from tests.gateway.test_auth import sign_in

CHAT = "/v1/chat/completions"


def preflight(origin: str, target: str = CHAT, method: str = "POST") -> Exchange:
    return ask(
        b"",
        target=target,
        method="OPTIONS",
        Origin=origin,
        Access_Control_Request_Method=method,
        Access_Control_Request_Headers="authorization,content-type,x-stainless-os",
    )


@pytest.mark.parametrize("target", [CHAT, "/api/chat", "/v1/models", "/v1/v1/models", "/api/pull"])
async def test_a_preflight_is_answered_with_origin_methods_and_headers(
    host: Host, upstream: Upstream, settings: Any, target: str
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = False  # a browser sends it without a key
    reply = await preflight("http://localhost:3000", target).end()
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "POST" in reply.headers["access-control-allow-methods"]
    allowed = reply.headers["access-control-allow-headers"]
    assert allowed == "authorization,content-type,x-stainless-os"
    assert reply.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in reply.headers
    assert not upstream.received


DEFAULTS = [
    "http://localhost",
    "https://localhost",
    "http://LOCALHOST:5173",
    "http://127.0.0.1:8080",
    "https://0.0.0.0:1",
    "app://obsidian.md",
    "file://",
    "tauri://localhost",
    "vscode-webview://1a2b",
    "vscode-file://vscode-app",
]


@pytest.mark.parametrize("origin", DEFAULTS)
async def test_the_origins_that_ollama_allows_are_allowed(
    host: Host, upstream: Upstream, origin: str
) -> None:
    assert (await preflight(origin).end()).status == 204
    reply = await ask(Origin=origin, Sec_Fetch_Site="cross-site").end()
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == origin
    assert "X-Switchboard-Model" in reply.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost.evil.example", "http://localhos", ""],
)
async def test_other_origins_are_refused(host: Host, upstream: Upstream, origin: str) -> None:
    for reply in (await preflight(origin).end(), await ask(Origin=origin).end()):
        assert reply.status == 403
        assert "SWITCHER_GATEWAY_ORIGINS" in reply.json()["error"]["message"]
        assert "access-control-allow-origin" not in reply.headers
    assert not upstream.received


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://chat.example.net", "https://chat.example.net"),
        ("https://*.example.net", "https://a.example.net"),
        ("chrome-extension://*", "chrome-extension://abc"),
        ("*", "https://anything.example"),
    ],
)
async def test_a_setting_allows_more_origins(
    host: Host, upstream: Upstream, settings: Any, pattern: str, origin: str
) -> None:
    assert (await preflight(origin).end()).status == 403
    settings.SWITCHER_GATEWAY_ORIGINS = gateway_origins([pattern])
    assert (await preflight(origin).end()).status == 204
    assert (await ask(Origin=origin).end()).status == 200
    assert (await preflight("http://localhost:3000").end()).status == 204


async def test_a_pattern_does_not_match_less_than_its_own_text(host: Host, settings: Any) -> None:
    settings.SWITCHER_GATEWAY_ORIGINS = ["https://ab*ba.example"]
    assert (await preflight("https://aba.example").end()).status == 403


async def test_it_can_be_turned_off(host: Host, upstream: Upstream, settings: Any) -> None:
    settings.SWITCHER_GATEWAY_ORIGINS = gateway_origins(["off"])
    assert (await preflight("http://localhost:3000").end()).status == 403
    assert (await ask(Origin="http://localhost:3000").end()).status == 403


@pytest.mark.parametrize("text", ["https://*.*.net", "chat.example.net", "https://a.net,b"])
def test_a_setting_that_ollama_would_refuse_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SWITCHER_GATEWAY_ORIGINS", text)
    with pytest.raises(ImproperlyConfigured, match="SWITCHER_GATEWAY_ORIGINS"):
        read_environment()


async def test_a_page_can_read_errors_too(host: Host, upstream: Upstream) -> None:
    reply = await ask({}, target="/v1/nothing", Origin="http://localhost:3000").end()
    assert reply.status == 404
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_page_of_another_origin_cannot_use_the_session(
    host: Host, upstream: Upstream, settings: Any, method: str
) -> None:
    """A browser counts all ports of localhost as one site, and sends our cookie along."""
    settings.SWITCHER_OPEN_GATEWAY = False
    cookie = await in_thread(sign_in)
    own = {"Origin": "http://localhost:8000", "Sec_Fetch_Site": "same-origin"}
    other = {"Origin": "http://localhost:3000", "Sec_Fetch_Site": "same-site"}
    target = "/v1/models" if method == "GET" else CHAT
    for headers, status in ((own, 200), (other, 401)):
        reply = await ask(target=target, method=method, Cookie=cookie, **headers).end()
        assert reply.status == status


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path", ["/ollama/models", "/ollama/models/switch", "/health", "/api/docs"]
)
def test_the_control_api_is_for_no_other_page(path: str) -> None:
    reply = Client().options(
        path, HTTP_ORIGIN="http://localhost:3000", HTTP_ACCESS_CONTROL_REQUEST_METHOD="POST"
    )
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]
