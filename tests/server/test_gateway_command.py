from __future__ import annotations

from typing import Any

import pytest
import uvicorn
from django.core.management import call_command

PROXY_KEEPS_S = 60  # nginx's default


@pytest.mark.django_db
def test_idle_connections_are_kept_for_longer_than_proxies_keep_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise one may be closed just as the next request is sent on it."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda _, **settings: given.update(settings))
    call_command("gateway", port=0)
    assert given["timeout_keep_alive"] > PROXY_KEEPS_S
