"""Switching in a real browser: read the plan, click, and watch it happen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from playwright.sync_api import Page, Route, expect

from tests.journeys.conftest import Product
from tests.until import until

pytestmark = pytest.mark.journey

Visit = Callable[..., Page]


def choose(page: Page, host: str, profile: str) -> None:
    page.select_option("#f-host", host)
    page.select_option("#f-profile", label=profile)


def switch_by_api(product: Product, **body: object) -> requests.Response:
    return product.client().post(f"{product.address}/ollama/models/switch", json=body, timeout=60)


def test_a_click_switches_and_every_phase_appears_without_a_reload(
    product: Product, visit: Visit
) -> None:
    page = visit("/")
    page.evaluate("window.stillTheSamePage = true")
    choose(page, "north-1", "mid-a")
    expect(page.locator("#plan")).to_contain_text("Load")
    expect(page.locator("#plan-go")).to_contain_text("Switch north-1 to mid-a")
    page.fill("#f-why", "The team needs it")
    page.click("#plan-go")
    panel = page.locator("[id^=switch-][data-state]").first
    expect(panel).to_contain_text("Switching north-1")
    expect(panel.locator("[aria-current=step] .ph")).to_contain_text("Loading")
    expect(panel).to_contain_text("The team needs it")
    expect(panel).to_have_attribute("data-state", "ok")
    expect(page.locator("#host-north-1-state")).to_contain_text("Active")
    expect(page.locator("#host-north-1-model")).to_contain_text("mid-a")
    expect(page.locator("#recent-switches")).to_contain_text("mid-a active after")
    assert page.evaluate("window.stillTheSamePage") is True
    assert product.hosts["north-1"].resident() == {"mid-a"}


def test_other_viewers_see_the_same_and_an_auditor_cannot_switch(
    product: Product, visit: Visit
) -> None:
    watching = visit("/", who="auditor")
    expect(watching.locator("#live-state")).to_have_attribute("data-state", "on")
    answer = switch_by_api(product, model="mid-a", host="south-1", wait=False)
    assert answer.status_code == 202
    panel = watching.locator("[id^=switch-][data-state]").first
    expect(panel).to_contain_text("Switching south-1")
    expect(panel).to_have_attribute("data-state", "ok")
    expect(watching.locator("#host-south-1-model")).to_contain_text("mid-a")
    expect(watching.locator("#plan-go")).to_have_attribute("aria-disabled", "true")
    expect(watching.locator("#switches button")).to_have_count(0)


def test_a_load_that_fails_leaves_the_old_model_serving_and_everyone_says_so(
    product: Product, visit: Visit
) -> None:
    assert switch_by_api(product, model="mid-a").status_code == 200
    page = visit("/")
    host = product.hosts["north-1"]
    host.fault(kind="fail_load", tag="big", message="cudaMalloc failed: out of memory")
    choose(page, "north-1", "big")
    expect(page.locator("#plan-go")).to_contain_text("Switch north-1 to big")
    expect(page.locator("#plan")).to_contain_text("Swap")
    expect(page.locator("#plan")).to_contain_text("mid-a is loaded again")
    page.click("#plan-go")
    panel = page.locator("[id^=switch-][data-state=failed]").first
    expect(panel).to_contain_text("cudaMalloc failed: out of memory")
    expect(panel).to_contain_text("mid-a is active again")
    expect(page.locator("#host-north-1-state")).to_contain_text("failed")
    expect(page.locator("#alarm")).to_contain_text("mid-a")
    assert host.resident() == {"mid-a"}
    answer = switch_by_api(product, model="big")
    problem = answer.json()
    assert answer.status_code == 502
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert problem["active"]["model"] == "mid-a:latest"
    assert problem["restored"] == "mid-a"
    assert host.resident() == {"mid-a"}


def test_a_switch_is_cancelled_from_the_page_and_the_old_model_is_back(
    product: Product, visit: Visit
) -> None:
    assert switch_by_api(product, model="mid-a").status_code == 200
    host = product.hosts["north-1"]
    host.fault(kind="slow_load", tag="big", factor=20)
    page = visit("/")
    choose(page, "north-1", "big")
    expect(page.locator("#plan-go")).to_contain_text("Switch north-1 to big")
    page.click("#plan-go")
    panel = page.locator("[id^=switch-][data-state]").first
    expect(panel.locator("[aria-current=step] .ph")).to_contain_text("Loading")
    panel.get_by_role("button", name="Cancel").click()
    expect(panel).to_contain_text("mid-a is active again")
    assert host.resident() == {"mid-a"}


def test_an_outdated_plan_runs_nothing(product: Product, visit: Visit) -> None:
    page = visit("/")
    choose(page, "north-1", "mid-a")
    expect(page.locator("#plan-go")).to_contain_text("mid-a")
    url = product.hosts["north-1"].url
    requests.post(f"{url}/api/generate", json={"model": "mid-b"}, timeout=30).raise_for_status()
    page.click("#plan-go")
    expect(page.locator("#plan-notice")).to_contain_text("Nothing was switched")
    expect(page.locator("#plan")).to_contain_text("mid-b")
    assert product.hosts["north-1"].resident() == {"mid-b"}


def tab_to(page: Page, wanted: str, most: int = 60) -> None:
    """Press Tab until the element with this id has the focus."""
    for _ in range(most):
        if page.evaluate("document.activeElement.id") == wanted:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never reached #{wanted}")


def test_the_keyboard_alone_suffices(product: Product, visit: Visit) -> None:
    page = visit("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    tab_to(page, "f-host")
    page.keyboard.type("south-1")
    page.keyboard.press("Tab")
    page.keyboard.type("mid-b")
    expect(page.locator("#plan-go")).to_contain_text("Switch south-1 to mid-b")
    tab_to(page, "f-why")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")  # never switches: it asks for a fresh plan
    expect(page.locator("#plan-age")).to_contain_text("Plan made")
    expect(page.locator("#switches [data-state=busy]")).to_have_count(0)
    tab_to(page, "plan-go")
    page.keyboard.press("Enter")
    panel = page.locator("[id^=switch-][data-state]").first
    expect(panel).to_have_attribute("data-state", "ok")
    assert product.hosts["south-1"].resident() == {"mid-b"}


def test_everything_works_without_script(product: Product, visit: Visit) -> None:
    page = visit("/", java_script_enabled=False)
    page.select_option("#f-host", "north-1")
    page.select_option("#f-profile", label="mid-a")
    page.get_by_role("button", name="Refresh plan").click()
    expect(page.locator("#plan-go")).to_contain_text("Switch north-1 to mid-a")
    page.click("#plan-go")
    expect(page.locator("#switches")).to_contain_text("north-1")
    until(lambda: product.hosts["north-1"].resident() == {"mid-a"})
    until(lambda: _reload(page).locator("#host-north-1-state").inner_text() == "Active")
    expect(page.locator("#recent-switches")).to_contain_text("mid-a active after")


def _reload(page: Page) -> Page:
    page.reload()
    return page


def test_a_click_during_a_plan_refresh_still_gets_its_answer(
    product: Product, visit: Visit
) -> None:
    """Without care, a plan that arrives late would replace the button, and with it the place for
    the answer to the click."""
    page = visit("/")
    choose(page, "north-1", "mid-a")
    expect(page.locator("#plan-go")).to_contain_text("Switch north-1 to mid-a")
    plans: list[Route] = []
    switches: list[Route] = []
    page.route("**/plan?**", lambda route: plans.append(route))
    page.route("**/switch", lambda route: switches.append(route))
    with page.expect_request("**/plan?**"):
        page.get_by_role("button", name="Refresh plan").click()
    with page.expect_request("**/switch"):
        page.click("#plan-go")
    with page.expect_event("requestfinished", lambda request: "/plan?" in request.url):
        plans[0].continue_()
    switches[0].continue_()
    panel = page.locator("[id^=switch-][data-state]").first
    expect(panel).to_have_attribute("data-state", "ok")
    expect(page.locator("#plan")).to_contain_text("Change a field or refresh the plan")


def test_a_second_person_sees_who_switches(product: Product, visit: Visit) -> None:
    product.hosts["north-1"].fault(kind="slow_load", factor=5)
    page, other = visit("/"), visit("/", who="ben")
    for each in (page, other):
        choose(each, "north-1", "mid-a")
        expect(each.locator("#plan-go")).to_contain_text("mid-a")
    page.click("#plan-go")
    expect(page.locator("[id^=switch-][data-state=busy]").first).to_be_visible()
    # By then a new plan may already show it and have disabled the button: both are right.
    other.click("#plan-go", force=True)
    expect(other.locator("#plan-notice")).to_contain_text("already switching to mid-a")
    expect(other.locator("#plan-notice")).to_contain_text("admin")
