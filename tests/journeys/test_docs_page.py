"""The page that documents the API, in a browser, under the content security policy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.journeys.conftest import Product


@pytest.mark.journey
def test_it_shows_the_api_and_tries_it_without_a_browser_error(
    product: Product, visit: Callable[..., Page]
) -> None:
    complaints: list[str] = []
    asked: list[str] = []
    page = visit("/")
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{product.address}/api/docs")
    page.get_by_text("/ollama/switches", exact=True).click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
    assert complaints == []
    assert all(url.startswith((product.address, "data:")) for url in asked)
