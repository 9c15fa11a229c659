"""The ASGI application: live sockets, the gateway, and Django for everything else."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

import django
from django.core.handlers.asgi import ASGIHandler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup(set_prefix=False)

# Imported only once the apps are loaded:
from project.background import Background, assemble  # noqa: E402
from project.base_path import with_base_path, without_base_path  # noqa: E402
from switcher.access import Request  # noqa: E402
from switcher.gateway.addresses import is_gateway_request  # noqa: E402
from switcher.live import consumer, feed  # noqa: E402

django_app = ASGIHandler()
django_app.request_class = Request

log = logging.getLogger(__name__)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve one connection. (Daphne has no lifespan: there `project.server` starts the parts.)"""
    scope = without_base_path(scope)
    if scope["type"] == "http" and is_gateway_request(scope):
        await _gateway()(scope, receive, send)
    elif scope["type"] == "http":
        await django_app(with_base_path(scope), receive, send)
    elif scope["type"] == "websocket":
        await consumer.app(scope, receive, send)
    else:
        await _lifespan(receive, send)


@cache
def _gateway() -> Any:
    """Import the gateway at its first request: it needs an HTTP client that pages do not."""
    from switcher.gateway.asgi import app

    return app


async def end_gateway() -> None:
    """Write the gateway's usage counts and close its connections.

    Call it once no request is left, as another request would open connections again.
    """
    if _gateway.cache_info().currsize:
        from switcher.gateway import route_cache
        from switcher.ollama import relay

        await route_cache.close_current()
        await relay.close()


async def _lifespan(receive: Any, send: Any) -> None:
    """Run the background parts along with the server, under uvicorn and the like."""
    await receive()
    parts = Background(assemble())
    try:
        parts.start()
    except Exception as exc:
        log.exception("The background work did not start.")
        await send({"type": "lifespan.startup.failed", "message": str(exc)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    feed.stop_all()
    await parts.stop(8.0)
    await end_gateway()
    await send({"type": "lifespan.shutdown.complete"})
