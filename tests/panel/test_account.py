from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

from tests import make
from tests.panel.test_board import text_of

pytestmark = pytest.mark.django_db


def test_signing_in_works_from_curl() -> None:
    make.user("olga", password="a-long-password")
    client = Client(enforce_csrf_checks=True)
    page = client.get("/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.content.decode())
    assert token is not None
    assert "csrftoken" in page.cookies
    values = {
        "username": "olga",
        "password": "a-long-password",
        "csrfmiddlewaretoken": token.group(1),
    }
    response = client.post("/login/", values)
    assert (response.status_code, response["Location"]) == (302, "/")
    assert response.cookies["session_id"].value


def test_signing_in_returns_only_to_addresses_of_this_site(client: Client) -> None:
    make.user("olga", password="a-long-password")
    values = {"username": "olga", "password": "a-long-password"}
    assert client.post("/login/", values | {"next": "/switches/"})["Location"] == "/switches/"
    assert client.post("/login/", values | {"next": "//evil.test/"})["Location"] == "/"


def test_wrong_password_says_so(client: Client) -> None:
    response = client.post("/login/", {"username": "olga", "password": "no"})
    assert "This user name and password do not match." in text_of(response)


def test_signing_out_needs_a_post(operator: Client) -> None:
    assert operator.get("/logout/").status_code == 405
    assert operator.post("/logout/")["Location"] == "/login/"
    assert operator.get("/").status_code == 302


def test_theme_is_kept_and_shown(operator: Client) -> None:
    make.host()
    response = operator.post("/theme", {"theme": "dark", "next": "/hosts/"})
    assert response["Location"] == "/hosts/"
    assert '<html lang="en" data-theme="dark">' in operator.get("/hosts/").content.decode()
    assert (
        operator.post("/theme", {"theme": "pink", "next": "https://evil.test/"})["Location"] == "/"
    )
    assert 'data-theme="dark"' in operator.get("/").content.decode()


def test_address_that_does_not_exist_is_a_friendly_page(operator: Client, client: Client) -> None:
    response = operator.get("/nothing")
    assert response.status_code == 404
    assert "There is no such page" in text_of(response)
    assert client.get("/nothing").status_code == 404


def test_the_error_page_needs_no_database(
    operator: Client, monkeypatch: Any, django_assert_num_queries: Any
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("switcher.panel.views.board.read_board", broken)
    operator.raise_request_exception = False
    response = operator.get("/")
    assert response.status_code == 500
    assert "Switchboard could not answer" in text_of(response)


def test_browsers_find_the_favicon(client: Client) -> None:
    response = client.get("/favicon.ico")
    assert response.status_code == 302
    assert client.get(response["Location"])["Content-Type"] == "image/svg+xml"


def test_navigation_shows_only_permitted_pages(operator: Client, admin: Client) -> None:
    make.host()
    assert 'href="/admin/"' not in operator.get("/").content.decode()
    assert 'href="/admin/"' in admin.get("/").content.decode()
