"""Lets pages of listed other origins use the gateway from a browser (CORS).

The list is written as for Ollama (`OLLAMA_ORIGINS`) and includes the same defaults. Cookies are
never allowed, so such a page needs a key; see `authenticate`.
https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from django.conf import settings

from switcher.gateway.errors import Headers
from switcher.gateway.request_head import RequestHead
from switcher.gateway.response import ResponseWriter

METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
# Without this list, a page can read none of our own headers.
EXPOSED = (
    "X-Switchboard-Model, X-Switchboard-Dropped, X-Switchboard-Fallback, X-Switchboard-Prompt-Cut, "
    "X-Switchboard-Routes, Request-Id, Retry-After, Allow, Accept-Encoding"
)
MAX_AGE_S = 7200  # the longest that Chromium caches a preflight


def headers_for(head: RequestHead) -> Headers:
    """Return the headers that allow the page that sent this request to read the response."""
    origin = head.headers.get("origin")
    if origin is None:
        return ()
    vary = ("vary", "Origin")
    if not is_allowed(origin):
        return [vary]
    allowed = ("access-control-allow-origin", origin)
    return [vary, allowed, ("access-control-expose-headers", EXPOSED)]


def is_allowed(origin: str) -> bool:
    """Return whether pages of this origin may use the gateway."""
    return _matches(origin.lower(), tuple(settings.SWITCHER_GATEWAY_ORIGINS))


@lru_cache(256)
def _matches(origin: str, patterns: Iterable[str]) -> bool:
    """Compare an origin with a pattern as Ollama does: the pattern has at most one `*`, which
    stands for any text."""
    for pattern in patterns:
        start, star, end = pattern.lower().partition("*")
        is_long_enough = len(origin) >= len(start) + len(end)
        if star and is_long_enough and origin.startswith(start) and origin.endswith(end):
            return True
        if not star and origin == start:
            return True
    return False


def is_preflight(head: RequestHead) -> bool:
    """Return whether this is a browser's question whether a page may send a request."""
    return head.method == "OPTIONS" and "access-control-request-method" in head.headers


async def answer_preflight(head: RequestHead, response: ResponseWriter) -> None:
    """Allow the request that a page of an allowed origin wants to send.

    All headers that it asks for are allowed: clients send many (`x-stainless-…`, `anthropic-…`),
    and none of them gives a page any right that it does not have anyway.
    """
    allowed = [
        ("access-control-allow-methods", METHODS),
        ("access-control-allow-headers", head.headers.get("access-control-request-headers", "")),
        ("access-control-max-age", str(MAX_AGE_S)),
    ]
    await response.send_empty(204, [(name, text) for name, text in allowed if text])
