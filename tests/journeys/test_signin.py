"""Signing in as people do it, with a name and a password."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.journeys.conftest import Product
from tests.journeys.product import PASSWORDS


@pytest.mark.journey
@pytest.mark.parametrize("script", [True, False])
def test_a_person_signs_in_and_comes_to_the_page_they_asked_for(
    product: Product, visit: Callable[..., Page], script: bool
) -> None:
    page = visit("/audit/", who="", java_script_enabled=script)
    page.fill("[name=username]", "auditor")
    page.fill("[name=password]", PASSWORDS["auditor"])
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{product.address}/audit/")
    expect(page.locator("#audit-list")).to_be_visible()
