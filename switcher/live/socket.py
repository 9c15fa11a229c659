"""The ASGI application behind `/ws/live/`."""

from __future__ import annotations

from typing import Any

from channels.security.websocket import AllowedHostsOriginValidator
from channels.sessions import CookieMiddleware

from switcher.live.consumer import LiveConsumer

PATH = "/ws/live/"

_live = AllowedHostsOriginValidator(CookieMiddleware(LiveConsumer.as_asgi()))


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve a WebSocket; another path than PATH is refused (HTTP 403)."""
    if scope["path"] != PATH:
        await receive()
        await send({"type": "websocket.close"})
        return
    await _live(scope, receive, send)
