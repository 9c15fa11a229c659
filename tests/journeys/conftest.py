"""A browser, and a running product to use with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.journeys.product import PASSWORDS, Process, seed, simulated_host
from tests.simulated import SimulatedOllama

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""

# Chromium writes these itself when a server is away; no page can prevent it.
NETWORK = ("net::ERR_", "WebSocket connection to")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking", "--disable-sync"],
        )
        yield chromium
        chromium.close()


class Product:
    """A running server and its two hosts."""

    def __init__(self, server: Process, first: SimulatedOllama, second: SimulatedOllama) -> None:
        self.server = server
        self.hosts = {"north-1": first, "south-1": second}
        self.address = server.address


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    data = tmp_path / "data"
    with simulated_host() as first, simulated_host() as second:
        seed(data, first.url, second.url)
        with Process(data) as server:
            yield Product(server, first, second)


@pytest.fixture
def visit(browser: Browser, product: Product) -> Iterator[Callable[..., Page]]:
    """Sign somebody in and open a page. At the end, no page may have logged an error."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def go(path: str = "/", who: str = "admin", **context_options: object) -> Page:
        context = browser.new_context(**context_options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        page.goto(f"{product.address}/login/?next={path}")
        page.fill("[name=username]", who)
        page.fill("[name=password]", PASSWORDS[who])
        with page.expect_navigation():
            page.keyboard.press("Enter")
        return page

    yield go
    for context in contexts:
        context.close()
    assert [t for t in complaints if not any(part in t for part in NETWORK)] == []
