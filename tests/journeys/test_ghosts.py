"""A ghost appears as it happens, and is freed by one click."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.journeys.conftest import Product
from tests.simulated import SimulatedOllama

pytestmark = pytest.mark.journey


def make_ghost(host: SimulatedOllama) -> None:
    """Load mid-b forever under another name, then pull that name again."""
    for path, body in (
        ("copy", {"source": "mid-b", "destination": "theirs"}),
        ("generate", {"model": "theirs", "prompt": "", "keep_alive": -1}),
    ):
        requests.post(f"{host.url}/api/{path}", json=body, timeout=10).raise_for_status()
    host.act("repull", tag="theirs")


@pytest.mark.parametrize("path", ["/", "/hosts/north-1/"])
def test_a_ghost_appears_without_a_reload_and_is_freed_in_place(
    product: Product, visit: Callable[..., Page], path: str
) -> None:
    page = visit(path)
    page.evaluate("window.stillTheSamePage = true")
    expect(page.locator("#live-state")).to_have_attribute("data-state", "on")
    make_ghost(product.hosts["north-1"])
    ghosts = page.locator("#host-north-1-ghosts")
    expect(ghosts).to_contain_text("replaced theirs")
    free = ghosts.get_by_role("button", name="Free it (theirs on north-1)")
    expect(free).to_be_visible()
    assert Axe().run(page).violations_count == 0
    free.click()
    expect(ghosts).to_contain_text("GB are free again.")
    expect(page.locator("#host-north-1-freed")).to_be_focused()
    expect(ghosts.get_by_role("button")).to_have_count(0)
    assert page.evaluate("window.stillTheSamePage") is True
    assert product.hosts["north-1"].resident() == set()


def test_an_auditor_sees_the_ghost_without_a_button(
    product: Product, visit: Callable[..., Page]
) -> None:
    page = visit("/", who="auditor", viewport={"width": 390, "height": 800})
    expect(page.locator("#live-state")).to_have_attribute("data-state", "on")
    make_ghost(product.hosts["north-1"])
    ghosts = page.locator("#host-north-1-ghosts")
    expect(ghosts).to_contain_text("An operator can free it.")
    expect(ghosts.get_by_role("button")).to_have_count(0)
