"""Pages under a name with underscores, as containers have them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from project.asgi import application

pytestmark = pytest.mark.django_db(transaction=True)


async def status_of(name: str) -> int:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/login/",
        "query_string": b"",
        "headers": [(b"host", name.encode())],
        "scheme": "http",
        "client": ("192.0.2.7", 5),
        "http_version": "1.1",
    }
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": b""})
    await application(scope, received.get, sent.put)
    return int((await sent.get())["status"])


async def test_a_name_with_underscores_is_served_where_it_is_allowed(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    assert await status_of("gpu_gateway:8000") == 200
    settings.ALLOWED_HOSTS = ["gpu_gateway"]
    assert await status_of("GPU_gateway") == 200
    assert await status_of("other_gateway") == 400
    assert await status_of("gpu_gateway:x") == 400
