"""What clients get: set it on the page, and request it with the command that the page shows."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.journeys.conftest import Product

pytestmark = pytest.mark.journey
PATH = "/hosts/north-1/clients"


def test_a_name_is_set_on_the_page_and_requested(
    product: Product, visit: Callable[..., Page]
) -> None:
    page = visit("/profiles/add?model=mid-b", viewport={"width": 390, "height": 800})
    page.get_by_role("button", name="Save profile").click()
    page.goto(f"{product.address}/hosts/north-1/")
    page.get_by_role("link", name="What clients get").click()
    page.get_by_label("By name only", exact=False).check()
    page.get_by_label("Name 1", exact=True).fill("quick")
    page.get_by_label("Profile of name 1").select_option("mid-b")
    page.get_by_role("button", name="Save what clients get").click()
    row = page.get_by_role("row", name="quick").first
    expect(row).to_contain_text("mid-b")
    row.locator("summary").click()
    words = row.locator("pre").inner_text()
    assert Axe().run(page).violations_count == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cookie = next(c["value"] for c in page.context.cookies() if c["name"] == "session_id")
    answer = requests.post(
        words.split()[1],
        data=words[words.index("-d '") + 4 : -1],
        cookies={"session_id": cookie},
        timeout=20,
    )
    assert (answer.status_code, answer.headers["X-Switchboard-Model"]) == (200, "mid-b")
    refused = requests.post(
        words.split()[1],
        data=json.dumps({"model": "gpt-4o", "messages": []}),
        cookies={"session_id": cookie},
        timeout=20,
    )
    assert refused.status_code == 404


def test_an_auditor_sees_no_form(visit: Callable[..., Page]) -> None:
    page = visit(PATH, who="auditor")
    expect(page.get_by_role("heading", name="What clients of north-1 get")).to_be_visible()
    expect(page.get_by_role("button", name="Save what clients get")).to_have_count(0)
