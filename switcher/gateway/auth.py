"""Who may use the gateway: holders of an API key, signed-in staff and, if the settings say that no
proxy runs on this machine, every local client.

Checked without Django's middleware, which would cost more than everything else together.
"""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.http import parse_cookie

from switcher import access
from switcher.concurrency.threads import in_thread
from switcher.domain.servers import VIA
from switcher.gateway import cors
from switcher.gateway.errors import GatewayError
from switcher.gateway.request_head import RequestHead
from switcher.gateway.routing import fresh_routes
from switcher.queries.keys import KeyFacts
from switcher.records.keys import digest_of
from switcher.records.refused_keys import record_refused_key

UNCONFIRMED = (
    "SWITCHER_OPEN_GATEWAY=1 opens the gateway no longer, because a reverse proxy on this machine "
    "would open it to everyone. If there is none, set SWITCHER_OPEN_GATEWAY=no-proxy."
)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def check_no_loop(head: RequestHead) -> None:
    """Refuse requests that a Switchboard sends to what it takes for one of its hosts: it may be
    this one, by whatever name, and would get them back for ever. Raises GatewayError 508."""
    if VIA in head.headers.get("via", ""):
        text = "This is the address of a Switchboard, not of an Ollama server. Add its hosts."
        raise GatewayError(508, "loop_detected", text)


def check_origin(head: RequestHead) -> None:
    """Refuse requests for another server name, or from a page of another site.

    The name matters most on loopback: a page whose own name was made to resolve to 127.0.0.1 (DNS
    rebinding) would otherwise reach us as if it were our own site. Raises GatewayError 400 or 403.
    """
    if not access.is_our_name(head.server_name):
        text = "This server does not go by that name. Its names are in SWITCHER_ALLOWED_HOSTS."
        raise GatewayError(400, "unknown_host", text)
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
        text += access.origin_hint(origin, head.server_name, head.is_secure)
        raise GatewayError(403, "foreign_request", text)


async def authenticate(head: RequestHead, manage: bool = False) -> KeyFacts | None:
    """Return the client's key; None if the client needs none.

    `manage` asks for the right to change what is on a host. Raises GatewayError 401 or 403.
    """
    token = access.key_in(head.headers, head.parameter("key") or head.path_key)
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


async def _find_key(token: str, head: RequestHead) -> KeyFacts:
    digest = digest_of(token)
    key = (await fresh_routes()).keys.get(digest)
    if key is None:  # it may be brand-new
        key = (await fresh_routes(as_of_now=True)).keys.get(digest)
    if key is None or not key.is_valid_at(datetime.now(UTC)):
        agent = head.headers.get("user-agent", "")
        await record_refused_key(token, "gateway", head.client_address, agent)
        text = "This key is unknown, has expired or was turned off."
        raise GatewayError(401, "invalid_api_key", text, headers=[("www-authenticate", "Bearer")])
    return key


def _check_scope(key: KeyFacts, manage: bool) -> KeyFacts:
    if manage and not key.manage:
        text = f"Key {key.name} may not change the host."
        raise GatewayError(403, "not_allowed", text)
    return key
