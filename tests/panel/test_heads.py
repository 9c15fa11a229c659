from __future__ import annotations

import pytest
from django.test import Client

from switcher.panel.urls import urlpatterns

PLAIN = sorted(
    str(p.pattern) for p in urlpatterns if "<" not in str(p.pattern) and p.name != "logout"
)


def test_there_are_pages() -> None:
    assert {"", "hosts/", "keys/add", "audit/verify/"} <= set(PLAIN)


@pytest.mark.django_db
@pytest.mark.parametrize("path", PLAIN)
def test_a_page_that_is_read_answers_head_as_well(admin: Client, path: str) -> None:
    """A monitor and a link checker ask so."""
    full, head = admin.get(f"/{path}"), admin.head(f"/{path}")
    assert (head.status_code, head.content) == (full.status_code, b"")
