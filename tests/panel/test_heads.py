from __future__ import annotations

import pytest
from django.test import Client
from django.urls import get_resolver

PLAIN = sorted(
    str(p.pattern)
    for included in get_resolver().url_patterns
    if "panel" in str(getattr(included, "urlconf_name", ""))
    for p in included.url_patterns
    if "<" not in str(p.pattern) and p.name != "logout"
)


def test_there_are_pages() -> None:
    assert {"", "hosts/", "keys/add", "audit/verify/"} <= set(PLAIN)


@pytest.mark.django_db
@pytest.mark.parametrize("path", PLAIN)
def test_a_page_that_is_read_answers_head_as_well(admin: Client, path: str) -> None:
    """A monitor and a link checker ask so."""
    full, head = admin.get(f"/{path}"), admin.head(f"/{path}")
    assert (head.status_code, head.content) == (full.status_code, b"")
