"""Which Host headers name this server."""

from __future__ import annotations

import re
from functools import lru_cache

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http.request import validate_host

# As Django reads them, and with underscores, which names in container networks often have.
_HOST = re.compile(r"([a-z0-9._-]+|\[[a-f0-9:.]+\])(?::\d{1,5})?", re.ASCII)


def server_domain(header: str) -> str:
    """Return the name in a Host header without its port, in lower case; empty if it is none."""
    found = _HOST.fullmatch(header.lower())
    return found[1].removesuffix(".") if found else ""


def is_our_name(header: str) -> bool:
    """Return whether a Host header names this server, by SWITCHER_ALLOWED_HOSTS."""
    return _is_our_name(header, tuple(settings.ALLOWED_HOSTS))


@lru_cache(256)
def _is_our_name(header: str, allowed: tuple[str, ...]) -> bool:
    """Cached, because the same few names come with every request."""
    domain = server_domain(header)
    return bool(domain) and validate_host(domain, allowed)


class Request(ASGIRequest):
    """A request whose Host may have underscores, if it is allowed."""

    def get_host(self) -> str:
        """Return the Host header. Raises DisallowedHost."""
        header: str = self._get_raw_host()  # type: ignore[attr-defined]
        return header if is_our_name(header) else super().get_host()
