"""Drift appears on the board as it happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.journeys.conftest import Product
from tests.journeys.test_switch import switch_by_api

pytestmark = pytest.mark.journey


def test_an_eviction_appears_on_the_board_without_a_reload(
    product: Product, visit: Callable[..., Page]
) -> None:
    assert switch_by_api(product, model="mid-a").status_code == 200
    page = visit("/")
    page.evaluate("window.stillTheSamePage = true")
    expect(page.locator("#host-north-1-state")).to_contain_text("Active")
    expect(page.locator("#live-state")).to_have_attribute("data-state", "on")
    # It is an eviction only after a reading has seen the model loaded.
    expect(page.locator("#host-north-1-model")).to_contain_text("mid-a")
    product.hosts["north-1"].act("evict", tag="mid-a")
    expect(page.locator("#host-north-1-note")).to_contain_text("mid-a was evicted")
    expect(page.locator("#board-summary")).to_contain_text("needs attention: north-1")
    assert page.evaluate("window.stillTheSamePage") is True
    page.click("#h-north-1 h3 a")
    drift = page.locator("#host-north-1-drifts li").first
    expect(drift).to_contain_text("Evicted.")
    drift.locator("summary").click()
    expect(drift.locator("pre")).to_contain_text('"keep_alive": "30m"')
