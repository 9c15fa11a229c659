"""The page that shows the API, in a browser, under the content security policy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.journeys.product import Process, seed, sign_in

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""


@pytest.mark.journey
def test_it_shows_the_api_and_tries_it_without_a_browser_error(tmp_path: Path) -> None:
    seed(tmp_path / "data", "http://127.0.0.1:9", "http://127.0.0.1:9")
    complaints: list[str] = []
    with Process(tmp_path / "data") as server, sync_playwright() as playwright:
        cookie = sign_in(server.address).cookies["session_id"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = chromium.new_context()
        context.add_cookies([{"name": "session_id", "value": cookie, "url": server.address}])
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{server.address}/api/docs")
        page.get_by_text("/ollama/switches", exact=True).click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
        chromium.close()
    assert complaints == []
    assert all(url.startswith((server.address, "data:")) for url in asked)
