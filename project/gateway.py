"""The gateway alone, for additional processes on the server's database.

    uvicorn project.gateway:application --workers 4

It runs no switches and watches no hosts; the server does, which may be on another machine.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

# Imported only once the apps are loaded:
from project.base_path import without_base_path  # noqa: E402
from project.hidden_keys import HideKeys  # noqa: E402
from switcher.audit.server_processes import ProcessRun  # noqa: E402
from switcher.concurrency.threads import in_thread  # noqa: E402
from switcher.gateway import route_cache  # noqa: E402
from switcher.gateway.asgi import app  # noqa: E402
from switcher.ollama import guard, relay  # noqa: E402

# uvicorn's own log of requests shows whole addresses.
logging.getLogger("uvicorn.access").addFilter(HideKeys())


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve one connection, and refuse WebSockets, which only the server handles."""
    scope = without_base_path(scope)
    if scope["type"] == "http":
        guard.add_own_port(scope["server"][1])
        await app(scope, receive, send)
    elif scope["type"] == "lifespan":
        await _lifespan(receive, send)
    else:
        await send({"type": "websocket.close", "code": 1000})


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    run = ProcessRun("gateway")
    run.start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await in_thread(run.stop)
    await route_cache.close_current()
    await relay.close()
    await send({"type": "lifespan.shutdown.complete"})
