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
def test_every_page_answers_head(admin: Client, path: str) -> None:
    """Monitors and link checkers use HEAD."""
    full, head = admin.get(f"/{path}"), admin.head(f"/{path}")
    assert (head.status_code, head.content) == (full.status_code, b"")
