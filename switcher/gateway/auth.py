"""Who may use the gateway: who has a key, a signed-in member of the staff, or, where the settings
open it, whoever is on this machine. Asked without Django's middleware, which would cost more than
all the rest."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import parse_cookie
from django.http.request import split_domain_port, validate_host

from switcher import access
from switcher.concurrency.threads import in_thread
from switcher.gateway import refusals
from switcher.gateway.answers import GatewayError
from switcher.gateway.routing import fresh_routes
from switcher.queries.keys import KeyFacts
from switcher.records.keys import MARK, digest_of

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Whoever passes a request on says so in one of these.
_PASSED_ON = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


@dataclass(frozen=True, slots=True)
class Caller:
    """What a connection and its headers say; names in lower case."""

    method: str
    scheme: str
    ip: str
    headers: Mapping[str, str]

    @property
    def host(self) -> str:
        return self.headers.get("host", "")

    @property
    def address(self) -> str | None:
        """Of the client itself; `ip` is of who holds the connection, which may be a proxy."""
        return access.client_address(self.ip, self.headers.get("x-forwarded-for", ""))


def caller_of(scope: Mapping[str, Any]) -> Caller:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        # As Django joins them: a header sent twice equals neither of its values.
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    client = scope.get("client") or ("", 0)
    return Caller(scope["method"], scope.get("scheme", "http"), str(client[0]), headers)


def check_own(caller: Caller) -> None:
    """Refuse a host name that is not ours, and what a browser marks as another site's.

    The name matters most on loopback: a page whose name was made to mean 127.0.0.1 would
    otherwise talk to us as its own site.
    """
    if not _is_ours(caller.host, tuple(settings.ALLOWED_HOSTS)):
        raise GatewayError(400, "unknown_host", "This server does not go by that name.")
    if caller.method in SAFE_METHODS:
        return
    if access.is_cross_site(caller.headers, caller.host, _secure(caller)):
        text = "A browser marked this request as sent by another site's page."
        raise GatewayError(403, "foreign_request", text)


@lru_cache(256)
def _is_ours(host: str, allowed: tuple[str, ...]) -> bool:
    """Kept, as the same few names come with every request."""
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, allowed)


async def admit(caller: Caller, manage: bool = False) -> KeyFacts | None:
    """Who may ask: the key that they came with, or None where none is needed. With `manage`: who
    may change what is on a host. Raises Refusal 401 or 403."""
    token = _token(caller)
    if token:
        return _check_scope(await _key_of(token, caller), manage)
    if settings.SWITCHER_OPEN_GATEWAY and is_on_this_machine(caller) and not manage:
        return None
    cookie = parse_cookie(caller.headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)
    user = await in_thread(access.user_of_session, cookie) if cookie else None
    if user is None or not user.is_authenticated:
        text = "Send a key (Authorization: Bearer sb-…), or sign in and send the session_id cookie."
        raise GatewayError(401, "not_signed_in", text, headers=[("www-authenticate", "Bearer")])
    if not (access.can_switch(user) if manage else access.can_view(user)):
        raise GatewayError(403, "not_allowed", f"{user.get_username()} may not do this.")
    return None


def _token(caller: Caller) -> str:
    """The key in the headers of OpenAI's and Ollama's clients. What does not look like one of
    ours is none: those clients send some word even where no key is needed."""
    scheme, _, token = caller.headers.get("authorization", "").partition(" ")
    found = token.strip() if scheme.lower() == "bearer" else caller.headers.get("x-api-key", "")
    return found if found.startswith(MARK) else ""


async def _key_of(token: str, caller: Caller) -> KeyFacts:
    digest = digest_of(token)
    # A key that was made a moment ago is not in the table yet.
    key = (await fresh_routes()).keys.get(digest) or (await fresh_routes(now=True)).keys.get(digest)
    if key is None or not key.works_at(datetime.now(UTC)):
        await refusals.tell(token, caller.address, caller.headers.get("user-agent", ""))
        text = "This key is not known, has expired or was turned off."
        raise GatewayError(401, "invalid_api_key", text, headers=[("www-authenticate", "Bearer")])
    return key


def _check_scope(key: KeyFacts, manage: bool) -> KeyFacts:
    if manage and not key.manage:
        text = f"This changes the host, which key {key.name} may not."
        raise GatewayError(403, "not_allowed", text)
    return key


def is_on_this_machine(caller: Caller) -> bool:
    """Whether the client itself sits on loopback. A proxy there speaks for anyone."""
    if settings.SECURE_PROXY_SSL_HEADER or any(name in caller.headers for name in _PASSED_ON):
        return False
    return _is_loopback(caller.ip)


@lru_cache(256)
def _is_loopback(ip: str) -> bool:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _secure(caller: Caller) -> bool:
    if settings.SECURE_PROXY_SSL_HEADER:
        name, value = settings.SECURE_PROXY_SSL_HEADER
        said = caller.headers.get(name.removeprefix("HTTP_").replace("_", "-").lower())
        if said is not None:
            return said.split(",")[0].strip() == value
    return caller.scheme == "https"
