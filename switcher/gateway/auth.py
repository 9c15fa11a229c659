"""Who may use the gateway: holders of an API key, signed-in staff and, if the settings say that no
proxy runs on this machine, every local client.

Checked without Django's middleware, which would cost more than everything else together.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

from django.conf import settings
from django.http import parse_cookie
from django.http.request import split_domain_port, validate_host

from switcher import access
from switcher.concurrency.threads import in_thread
from switcher.gateway import cors
from switcher.gateway.errors import GatewayError
from switcher.gateway.refused_keys import record_refused_key
from switcher.gateway.request_head import RequestHead
from switcher.gateway.routing import fresh_routes
from switcher.queries.keys import KeyFacts
from switcher.records.keys import KEY_PREFIX, digest_of

UNCONFIRMED = (
    "SWITCHER_OPEN_GATEWAY=1 opens the gateway no longer, because a reverse proxy on this machine "
    "would open it to everyone. If there is none, set SWITCHER_OPEN_GATEWAY=no-proxy."
)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def check_origin(head: RequestHead) -> None:
    """Refuse requests for another server name, or from a page of another site.

    The name matters most on loopback: a page whose own name was made to resolve to 127.0.0.1 (DNS
    rebinding) would otherwise reach us as if it were our own site. Raises GatewayError 400 or 403.
    """
    if not _is_our_name(head.server_name, tuple(settings.ALLOWED_HOSTS)):
        raise GatewayError(400, "unknown_host", "This server does not go by that name.")
    if head.method in SAFE_METHODS and not cors.is_preflight(head):
        return
    origin = head.headers.get("origin", "")
    if cors.is_allowed(origin):
        return
    if access.is_cross_site(head.headers, head.server_name, head.is_secure):
        text = (
            "A browser marked this request as sent by another site's page. If that page may use "
            "the gateway, add its origin to SWITCHER_GATEWAY_ORIGINS."
        )
        raise GatewayError(403, "foreign_request", text)


@lru_cache(256)
def _is_our_name(server_name: str, allowed: tuple[str, ...]) -> bool:
    """Return whether a Host header names this server. Cached, because the same few names come with
    every request."""
    domain, _ = split_domain_port(server_name)
    return bool(domain) and validate_host(domain, allowed)


async def authenticate(head: RequestHead, manage: bool = False) -> KeyFacts | None:
    """Return the client's key; None if the client needs none.

    `manage` asks for the right to change what is on a host. Raises GatewayError 401 or 403.
    """
    token = _token(head)
    if token:
        return _check_scope(await _find_key(token, head), manage)
    if settings.SWITCHER_OPEN_GATEWAY and head.is_from_this_machine and not manage:
        return None
    cookie = _session(head)
    user = await in_thread(access.user_of_session, cookie) if cookie else access.NOBODY
    if not user.is_authenticated:
        text = "Send a key (Authorization: Bearer sb-…), or sign in and send the session_id cookie."
        if settings.SWITCHER_OPEN_GATEWAY_UNCONFIRMED:
            text = f"{text} {UNCONFIRMED}"
        raise GatewayError(401, "not_signed_in", text, headers=[("www-authenticate", "Bearer")])
    if not (access.can_switch(user) if manage else access.can_view(user)):
        raise GatewayError(403, "not_allowed", f"{user.get_username()} may not do this.")
    return None


def _session(head: RequestHead) -> str | None:
    """Return the session that the client sends. Return None if there is none, or if a page of
    another origin sends it: the person who is signed in did not ask for that."""
    if "origin" in head.headers and access.is_cross_site(
        head.headers, head.server_name, head.is_secure
    ):
        return None
    return parse_cookie(head.headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)


def _token(head: RequestHead) -> str:
    """Return the client's key; empty if it sends none that looks like Switchboard's.

    Clients differ in where they send it, and send a placeholder (`Bearer ollama`) even to servers
    that need no key.
    """
    return next((text for text in _secrets(head) if text.startswith(KEY_PREFIX)), "")


def _secrets(head: RequestHead) -> Iterator[str]:
    """Yield everything that could be a key, in order of precedence."""
    scheme, _, value = head.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        yield from _basic(value)
    else:
        yield value.strip() or scheme  # some clients leave the scheme out
    yield head.headers.get("x-api-key", "").strip()
    yield head.headers.get("api-key", "").strip()
    yield head.parameter("key").strip()


def _basic(value: str) -> Iterator[str]:
    """Yield the password and the user's name of basic authentication (RFC 7617)."""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:
        return
    yield password
    yield name


async def _find_key(token: str, head: RequestHead) -> KeyFacts:
    digest = digest_of(token)
    key = (await fresh_routes()).keys.get(digest)
    if key is None:  # it may be brand-new
        key = (await fresh_routes(as_of_now=True)).keys.get(digest)
    if key is None or not key.is_valid_at(datetime.now(UTC)):
        await record_refused_key(token, head.client_address, head.headers.get("user-agent", ""))
        text = "This key is unknown, has expired or was turned off."
        raise GatewayError(401, "invalid_api_key", text, headers=[("www-authenticate", "Bearer")])
    return key


def _check_scope(key: KeyFacts, manage: bool) -> KeyFacts:
    if manage and not key.manage:
        text = f"Key {key.name} may not change the host."
        raise GatewayError(403, "not_allowed", text)
    return key
