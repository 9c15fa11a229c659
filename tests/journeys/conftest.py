"""Fixtures: a browser, and a running product to open in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.journeys.product import Process, move_hosts, seed, simulated_host
from tests.server.process import copy
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""

# Chromium itself logs these when a server is away; no page can prevent it.
NETWORK = ("net::ERR_", "WebSocket connection to")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking", "--disable-sync"],
        )
        yield chromium
        chromium.close()


@dataclass(frozen=True)
class Product:
    """A running server, its two hosts, and a session key for each person."""

    server: Process
    hosts: dict[str, SimulatedOllama]
    sessions: dict[str, str]

    @property
    def address(self) -> str:
        return self.server.address

    def client(self, who: str = "admin") -> requests.Session:
        """Return a client of the API that is signed in."""
        client = requests.Session()
        client.cookies["session_id"] = self.sessions[who]
        return client

    def cookie(self, who: str = "admin") -> Any:
        return {"name": "session_id", "value": self.sessions[who], "url": self.address}


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A data directory to copy, whose hosts have no server yet, and the session keys in it."""
    data = tmp_path_factory.mktemp("seeded") / "data"
    return data, seed(data, "http://127.0.0.1:9", "http://127.0.0.1:8")


@pytest.fixture
def product(seeded: tuple[Path, dict[str, str]], tmp_path: Path) -> Iterator[Product]:
    data = copy(seeded[0], tmp_path / "data")
    with simulated_host() as first, simulated_host() as second:
        move_hosts(data, first.url, second.url)
        with Process(data) as server:
            yield Product(server, {"north-1": first, "south-1": second}, seeded[1])


@pytest.fixture
def visit(browser: Browser, product: Product) -> Iterator[Callable[..., Page]]:
    """Open a page as somebody who is signed in (`who=""`: as nobody). Fail at the end if a page
    logged an error."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def go(path: str = "/", who: str = "admin", **context_options: object) -> Page:
        context = browser.new_context(**context_options)  # type: ignore[arg-type]
        contexts.append(context)
        if who:
            context.add_cookies([product.cookie(who)])
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        page.goto(product.address + path)
        return page

    yield go
    for context in contexts:
        context.close()
    assert [t for t in complaints if not any(part in t for part in NETWORK)] == []
