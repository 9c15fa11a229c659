"""Recognises requests that another site's page made a browser send."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from django.conf import settings

from switcher.domain.addresses import DEFAULT_PORTS


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


def origin_hint(origin: str, host: str, secure: bool) -> str:
    """Return which proxy or setting may have made our own page's origin look like another's, in
    sentences after a space; empty if nothing points to one."""
    if not origin:
        return ""
    if origin == "null":
        return (
            " The browser hides where the page is from (Origin: null): let no proxy in front of "
            "Switchboard set Referrer-Policy: no-referrer, and open the page itself."
        )
    ours = _parse_origin(f"{'https' if secure else 'http'}://{host}")
    theirs = _parse_origin(origin)
    if theirs[:2] == ("https", ours[1]) and not secure:
        cause = (
            "A proxy took the request over HTTPS, and nothing says so to Switchboard: let it send "
            "X-Forwarded-Proto and set SWITCHER_BEHIND_PROXY=1"
        )
    elif theirs[1] == ours[1]:
        cause = "A proxy dropped or changed the port: let it pass Host on as it is, with the port"
    else:
        cause = "A proxy changed Host: let it pass Host on as it is"
    return (
        f" The page is at {origin}, but the request names {host}. If that is one site: {cause}, or "
        f"set SWITCHER_TRUSTED_ORIGINS={origin}."
    )


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
        port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", text, 0
    return parts.scheme, parts.hostname or "", port
