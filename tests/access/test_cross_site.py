"""Requests that another site's page made a browser send."""

from __future__ import annotations

from typing import Any

import pytest

from switcher.access import is_cross_site


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
