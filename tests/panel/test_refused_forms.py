"""A form that is refused behind a proxy says why, and which setting mends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from tests.panel.test_board import text_of

SignIn = Callable[..., Client]


@pytest.fixture
def client(sign_in: SignIn, settings: Any) -> Client:
    settings.ALLOWED_HOSTS = ["*"]
    return sign_in("operators", "carl", enforce_csrf_checks=True)


@pytest.mark.parametrize(
    ("headers", "secure", "cause"),
    [
        (
            {"Host": "a.example", "Origin": "https://a.example"},
            False,
            "send X-Forwarded-Proto and set SWITCHER_BEHIND_PROXY=1",
        ),
        ({"Host": "inner:8000", "Origin": "https://a.example"}, False, "A proxy changed Host"),
        ({"Host": "a.example", "Origin": "http://a.example:8080"}, False, "changed the port"),
        ({"Host": "a.example", "Origin": "null"}, True, "Referrer-Policy: no-referrer"),
        ({"Host": "a.example"}, True, "Referrer-Policy: no-referrer"),
        ({"Host": "inner", "Referer": "https://a.example/x"}, True, "A proxy changed Host"),
    ],
)
def test_the_page_names_the_cause_and_the_setting(
    client: Client, headers: dict[str, str], secure: bool, cause: str
) -> None:
    reply = client.post("/switch", {"host": "north-1"}, headers=headers, secure=secure)
    assert reply.status_code == 403
    page = text_of(reply)
    assert "Nothing was changed." in page
    assert cause in page
    if "a.example" in headers.get("Origin", "") + headers.get("Referer", ""):
        assert "set SWITCHER_TRUSTED_ORIGINS=http" in page


def test_secure_cookies_over_http_are_named(client: Client, settings: Any) -> None:
    settings.CSRF_COOKIE_SECURE = True
    page = text_of(client.post("/switch", {"host": "north-1"}, headers={"Host": "a.example"}))
    assert "SWITCHER_HTTPS is on" in page


def test_an_outdated_form_is_named_as_such(client: Client) -> None:
    reply = client.post("/switch", {"host": "north-1"}, headers={"Host": "a.example"})
    assert "This form is out of date" in text_of(reply)
