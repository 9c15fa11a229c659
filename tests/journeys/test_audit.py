"""An auditor's work in a real browser, with only the keyboard, and without JavaScript."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from switcher.audit.verifier import switchboard_verify
from tests.journeys.conftest import Product
from tests.journeys.test_switch import tab_to

pytestmark = pytest.mark.journey

Visit = Callable[..., Page]

PATHS = ("/audit/", "/audit/people/admin/", "/audit/hosts/north-1/", "/audit/when/", "/audit/1/")


@pytest.fixture
def trail(product: Product) -> None:
    """Run two switches as an admin, each with a reason."""
    session = product.client()
    for model, reason in (("mid-a", "nightly evaluation"), ("mid-b", "wrong answers")):
        wish = {"model": model, "host": "north-1", "reason": reason}
        answer = session.post(f"{product.address}/ollama/models/switch", json=wish, timeout=60)
        assert answer.status_code == 200, answer.text


def verified(path: Path, data: Path) -> int:
    keys = ("--key", str(data / "audit-keys.pub"))
    command = [sys.executable, "-I", switchboard_verify.__file__, str(path), *keys]
    return subprocess.run(command, capture_output=True, timeout=60).returncode


def test_filter_read_review_and_export_by_keyboard_alone(
    product: Product, trail: None, visit: Visit, tmp_path: Path
) -> None:
    page = visit("/audit/", who="auditor")
    page.evaluate("window.stillTheSamePage = true")
    tab_to(page, "q-text")
    page.keyboard.type("nightly")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{product.address}/audit/?" + filter_of(text="nightly"))
    rows = page.locator("#audit-list tbody tr:not(.day)")
    expect(rows).to_have_count(1)
    assert page.evaluate("window.stillTheSamePage") is True
    assert page.evaluate("document.activeElement.id") == "q-text"

    seq = rows.first.locator("a").first.inner_text()
    tab_to(page, f"entry-{seq}-go")
    page.keyboard.press("Enter")
    expect(page.locator("#entry-h")).to_contain_text("Asked north-1 to switch to mid-a")
    expect(page.locator("#body")).to_contain_text('"reason":"nightly evaluation"')
    page.go_back()  # tests drive only the page, so they cannot press the browser's own Alt+Left
    expect(rows).to_have_count(1)

    tab_to(page, f"pick-{seq}")
    page.keyboard.press("Space")
    tab_to(page, "review-note")
    page.keyboard.type("as announced")
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_contain_text("1 entry marked as reviewed.")
    expect(rows.first).to_contain_text("auditor")

    tab_to(page, "export-jsonl")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    path = tmp_path / "selection.jsonl"
    download.value.save_as(path)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in entries if line["type"] == "entry"] == [int(seq)]
    assert verified(path, tmp_path / "data") == 3


def filter_of(**given: str) -> str:
    names = ("host", "kind", "actor", "model", "outcome", "text", "since", "until")
    return "&".join(f"{name}={given.get(name, '')}" for name in names)


def test_the_same_forms_work_without_script(
    product: Product, trail: None, visit: Visit, tmp_path: Path
) -> None:
    page = visit("/audit/", who="auditor", java_script_enabled=False)
    page.select_option("#q-kind", "switches")
    page.check("#q-unreviewed")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator("#list-h")).to_contain_text("not reviewed")
    page.get_by_role("button", name="Mark all shown as reviewed").click()
    expect(page.locator(".notice").first).to_contain_text("marked as reviewed.")
    expect(page.locator("#audit-list")).to_contain_text("No entries match.")
    page.goto(f"{product.address}/audit/")
    with page.expect_download() as download:
        page.click("#export-jsonl")
    path = tmp_path / "trail.jsonl"
    download.value.save_as(path)
    assert verified(path, tmp_path / "data") == 0


def test_what_was_active_is_shown_with_its_proof(trail: None, visit: Visit) -> None:
    page = visit("/audit/when/", who="auditor")
    row = page.locator("#then tr", has_text="north-1")
    expect(row).to_contain_text("mid-b")
    row.locator("td a").first.click()
    expect(page.locator("#entry-h")).to_contain_text("mid-b became the active model of north-1")


PHONE = {"width": 390, "height": 844}


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"viewport": PHONE}])
def test_the_pages_are_accessible(trail: None, visit: Visit, options: dict[str, object]) -> None:
    page = visit("/audit/", who="auditor", **options)
    for path in PATHS:
        page.goto(page.url.split("/audit/")[0] + path)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= page.viewport_size["width"]  # type: ignore[index]


def test_the_printed_page_has_the_list_and_no_controls(trail: None, visit: Visit) -> None:
    page = visit("/audit/?host=north-1", who="auditor")
    page.emulate_media(media="print")
    expect(page.locator(".print-head")).to_be_visible()
    expect(page.locator(".print-head")).to_contain_text("Filter: host north-1.")
    for gone in (".bar", "#q-text", "#review-form", "#export-csv", ".pager"):
        expect(page.locator(gone)).to_be_hidden()
    expect(page.locator("#audit-list tbody tr").nth(1)).to_be_visible()
