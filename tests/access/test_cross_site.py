"""Requests that another site's page made a browser send."""

from __future__ import annotations

from typing import Any

import pytest

from switcher.access import is_cross_site, origin_hint


@pytest.mark.parametrize(
    ("origin", "trusted", "cross_site"),
    [
        ("https://a.example.com", ["https://*.example.com"], False),
        ("https://example.com", ["https://*.example.com"], False),
        ("https://badexample.com", ["https://*.example.com"], True),
        ("http://a.example.com", ["https://*.example.com"], True),
        ("https://a.example.com:8443", ["https://*.example.com"], True),
        ("https://a.example.com.", ["https://a.example.com"], True),
        ("http://[::1", [], True),
        ("http://[::1]:8000", [], False),
        ("", [], True),
    ],
)
def test_origins_are_compared_by_scheme_host_and_port(
    origin: str, trusted: list[str], cross_site: bool, settings: Any
) -> None:
    settings.CSRF_TRUSTED_ORIGINS = trusted
    assert is_cross_site({"origin": origin}, "[::1]:8000", secure=False) is cross_site


@pytest.mark.parametrize(
    ("origin", "host", "secure", "cause"),
    [
        (
            "https://a.example",
            "a.example",
            False,
            "set SWITCHER_BEHIND_PROXY",
        ),
        ("https://a.example:8443", "a.example", True, "dropped or changed the port"),
        ("https://a.example", "127.0.0.1:8000", False, "let it pass Host on as it is"),
        ("null", "a.example", True, "Referrer-Policy: no-referrer"),
    ],
)
def test_the_likely_cause_is_named(origin: str, host: str, secure: bool, cause: str) -> None:
    hint = origin_hint(origin, host, secure)
    assert cause in hint
    if origin != "null":
        assert f"set SWITCHER_TRUSTED_ORIGINS={origin}." in hint


def test_without_an_origin_nothing_is_guessed() -> None:
    assert origin_hint("", "a.example", True) == ""
