"""What browsers download: hashed names that never change, compressed files and pages."""

from __future__ import annotations

import gzip
import re

import brotli
import pytest
from django.http import HttpResponse
from django.test import Client

from project.static import IMMUTABLE, hashed
from tests import make

pytestmark = pytest.mark.django_db
BROWSER = {"HTTP_ACCEPT": "text/html", "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd"}


@pytest.fixture
def browser(admin_client: Client) -> Client:
    admin_client.defaults |= BROWSER
    return admin_client


def files_of(page: HttpResponse) -> list[str]:
    text = gzip.decompress(page.content).decode()
    return re.findall(r'(?:src|href)="(/static/[^"]+)"', text)


def test_files_in_pages_have_hashed_names_and_are_kept_for_ever(browser: Client) -> None:
    files = files_of(browser.get("/"))
    assert len(files) >= 4
    for path in files:
        assert re.search(r"\.[0-9a-f]{12}\.\w+$", path)
        assert browser.get(path)["Cache-Control"] == IMMUTABLE


def test_a_name_without_hash_or_of_another_version_is_served_but_not_kept(client: Client) -> None:
    for path in ("/static/live.js", "/static/live.0123456789ab.js"):
        response = client.get(path)
        assert (response.status_code, response["Cache-Control"]) == (200, "max-age=0, public")


def test_a_missing_file_is_not_found(client: Client) -> None:
    assert client.get("/static/none.0123456789ab.js").status_code == 404


def test_files_are_compressed_as_the_browser_can_read_them(client: Client) -> None:
    path = f"/static/{hashed('live.js')}"
    plain = client.get(path)
    assert "Content-Encoding" not in plain
    by_br = client.get(path, HTTP_ACCEPT_ENCODING="gzip, br")
    by_gzip = client.get(path, HTTP_ACCEPT_ENCODING="gzip")
    assert (by_br["Content-Encoding"], by_gzip["Content-Encoding"]) == ("br", "gzip")
    assert brotli.decompress(by_br.content) == gzip.decompress(by_gzip.content) == plain.content
    assert {r["Vary"] for r in (plain, by_br, by_gzip)} == {"Accept-Encoding"}
    assert by_br["Content-Length"] == str(len(by_br.content))


def test_the_board_fits_into_40_kb_cold_and_12_kb_warm(browser: Client) -> None:
    make.host()
    page = browser.get("/")
    assert page["Content-Encoding"] == "gzip"
    warm = len(page.content)
    cold = warm + sum(len(browser.get(path).content) for path in files_of(page))
    assert warm <= 12_000
    assert cold <= 40_000


def test_a_page_of_a_client_without_compression_is_plain(admin_client: Client) -> None:
    assert b"<!doctype html>" in admin_client.get("/").content.lower()
