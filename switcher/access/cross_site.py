"""Recognises requests that another site's page made a browser send."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from django.conf import settings

_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_cross_site(headers: Mapping[str, str], host: str, secure: bool) -> bool:
    """Return whether a browser marks this request as sent by another site's page.

    A browser sends our cookie with such a request, so a cookie alone does not show that the user
    wants it. Clients other than browsers send neither of the two headers and pass.

    Names in `headers` are in lower case; `host` is the Host header, with its port. Pages of the
    origins in CSRF_TRUSTED_ORIGINS may call us: https://example.com, https://*.example.com.
    """
    origin = headers.get("origin")
    if origin is not None:
        if _is_trusted(origin):
            return False
        if _parse_origin(origin) != _parse_origin(f"{'https' if secure else 'http'}://{host}"):
            return True
    return headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}


def _is_trusted(origin: str) -> bool:
    scheme, host, port = _parse_origin(origin)
    for pattern in settings.CSRF_TRUSTED_ORIGINS:
        allowed_scheme, allowed, allowed_port = _parse_origin(pattern.replace("://*.", "://", 1))
        if (scheme, port) != (allowed_scheme, allowed_port):
            continue
        if host == allowed or ("://*." in pattern and host.endswith(f".{allowed}")):
            return True
    return False


def _parse_origin(text: str) -> tuple[str, str, int]:
    """Return scheme, host and port. Text that is not an origin, such as `null`, equals no real
    one."""
    try:
        parts = urlsplit(text)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", text, 0
    return parts.scheme, parts.hostname or "", port
