"""The ASGI application behind `/ws/live/`."""

from __future__ import annotations

from typing import Any

from channels.security.websocket import AllowedHostsOriginValidator
from channels.sessions import CookieMiddleware

from switcher.access import is_cross_site
from switcher.live.consumer import LiveConsumer

PATH = "/ws/live/"

_live = AllowedHostsOriginValidator(CookieMiddleware(LiveConsumer.as_asgi()))


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve a WebSocket. Refuse paths other than PATH and pages of another origin (HTTP 403)."""
    if scope["path"] != PATH or _is_from_elsewhere(scope):
        await receive()
        await send({"type": "websocket.close"})
        return
    await _live(scope, receive, send)


def _is_from_elsewhere(scope: Any) -> bool:
    """Return whether a page of another port or site asks: the validator looks at the name alone.
    The scheme is taken from the page, as a proxy may have terminated TLS.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    secure = headers.get("origin", "").startswith("https:")
    return is_cross_site(headers, headers.get("host", ""), secure)
