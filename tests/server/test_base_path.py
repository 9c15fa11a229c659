"""Served below a path by a proxy, which removes the path from what it forwards or leaves it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.server.process import Process, copy
from tests.until import PATIENCE_S

BASE = "/switchboard"


@pytest.fixture(scope="module")
def server(
    template: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, str]]]:
    """A running server's address, and the cookie of a signed-in admin."""
    data = copy(template[0], tmp_path_factory.mktemp("base") / "data")
    with Process(data, SWITCHER_BASE_PATH=f"{BASE}/") as process:
        yield process.address, {"session_id": template[1]}


@pytest.fixture(params=[BASE, ""], ids=["left", "removed"])
def address(server: tuple[str, dict[str, str]], request: pytest.FixtureRequest) -> str:
    return server[0] + str(request.param)


@pytest.fixture
def cookies(server: tuple[str, dict[str, str]]) -> dict[str, str]:
    return server[1]


PAGES = ["/", "/switches/", "/profiles/", "/hosts/", "/keys/", "/audit/", "/admin/", "/api/docs"]


@pytest.mark.parametrize("page", PAGES)
def test_every_address_in_a_page_is_below_the_path(
    address: str, cookies: dict[str, str], page: str
) -> None:
    answer = requests.get(f"{address}{page}", cookies=cookies, timeout=PATIENCE_S)
    assert answer.status_code == 200
    found = re.findall(r'(?:href|src|action|hx-get|hx-post|data-\w+-url)="(/[^"]*)"', answer.text)
    assert found
    # Django's admin links to the site without its slash.
    assert [url for url in found if not f"{url}/".startswith(f"{BASE}/")] == []


def test_static_files_are_served(address: str) -> None:
    assert requests.get(f"{address}/static/live.js", timeout=PATIENCE_S).status_code == 200


def test_who_is_not_signed_in_is_sent_to_the_login_and_back(address: str) -> None:
    answer = requests.get(f"{address}/switches/", timeout=PATIENCE_S, allow_redirects=False)
    assert answer.headers["Location"] == f"{BASE}/login/?next={BASE}/switches/"


def test_cookies_are_for_the_path_alone(address: str) -> None:
    answer = requests.get(f"{address}/login/", timeout=PATIENCE_S)
    assert f"Path={BASE}/" in answer.headers["Set-Cookie"]


def test_the_api_and_its_description_are_below_the_path(
    address: str, cookies: dict[str, str]
) -> None:
    answer = requests.get(f"{address}/api/openapi.json", cookies=cookies, timeout=PATIENCE_S)
    assert f"{BASE}/ollama/models/switch" in answer.json()["paths"]
    assert requests.get(f"{address}/health", timeout=PATIENCE_S).status_code in (200, 503)


def test_the_gateway_is_below_the_path(address: str, cookies: dict[str, str]) -> None:
    body = {"model": "x", "messages": []}
    answer = requests.post(
        f"{address}/v1/chat/completions", json=body, cookies=cookies, timeout=PATIENCE_S
    )
    assert answer.json()["error"]["code"] == "no_host"


def test_the_live_feed_is_below_the_path(address: str, cookies: dict[str, str]) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Origin": address.removesuffix(BASE),
    }
    url = f"{address}/ws/live/?topics=board"
    answer = requests.get(url, headers=headers, cookies=cookies, stream=True, timeout=PATIENCE_S)
    assert answer.status_code == 101
    answer.close()
