"""Authentication: the signed-in person behind the session cookie, or a key that may switch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from django.conf import settings
from django.http import HttpRequest
from ninja.security.base import AuthBase

from switcher import access
from switcher.api.problems import Problem
from switcher.concurrency.threads import in_thread
from switcher.queries import keys
from switcher.queries.keys import KeyFacts
from switcher.records import Actor, usage
from switcher.records.keys import digest_of
from switcher.records.refused_keys import record_refused_key

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SIGN_IN = "Sign in at /login/ and send the session_id cookie."


class SessionCookie(AuthBase):
    """Authentication by the session cookie. That is enough, because requests that a browser marks
    as coming from another site are refused first.
    """

    openapi_type = "apiKey"
    openapi_in = "cookie"
    openapi_name = settings.SESSION_COOKIE_NAME

    def __init__(self, is_allowed: Callable[[Any], bool], act: str = "") -> None:
        self._is_allowed = is_allowed
        self._act = act
        super().__init__()

    async def authenticate(self, request: HttpRequest) -> Any:
        """Return the signed-in user. Raises Problem."""
        _check_same_site(request)
        return await in_thread(self._allowed_user, request)

    __call__ = authenticate

    def _allowed_user(self, request: HttpRequest) -> Any:
        """Read the session and the user from the database, and check what the user may do."""
        user = request.user
        if not user.is_authenticated:
            raise Problem("not-signed-in", SIGN_IN)
        if not access.can_view(user):
            raise Problem("not-allowed", f"{user.get_username()} is not staff.")
        if not self._is_allowed(user):
            raise Problem("not-allowed", f"{user.get_username()} may not {self._act}.")
        return user


class SwitchKey(AuthBase):
    """Authentication by an API key with the scope to switch models. A request without a key passes
    on to the next way of authentication.
    """

    openapi_type = "http"
    openapi_scheme = "bearer"

    async def authenticate(self, request: HttpRequest) -> KeyFacts | None:
        """Return the key; None if there is none. Raises Problem."""
        token = access.key_in({name.lower(): text for name, text in request.headers.items()})
        if not token:
            return None
        _check_same_site(request)
        key = await in_thread(keys.find_key, digest_of(token))
        if key is None or not key.is_valid_at(datetime.now(UTC)):
            await record_refused_key(token, "api", *access.origin_of(request))
            raise Problem("not-signed-in", "This key is unknown, has expired or was turned off.")
        if not key.may_switch:
            raise Problem("not-allowed", f"Key {key.name} may not switch models.")
        await in_thread(usage.add_usage, usage.UsageBatch([], {key.id}), datetime.now(UTC))
        return key

    __call__ = authenticate


switch_key = SwitchKey()
viewer = SessionCookie(access.can_view)
operator = SessionCookie(access.can_switch, "switch models")
exporter = SessionCookie(access.can_export, "export the audit trail")


def _check_same_site(request: HttpRequest) -> None:
    if request.method in SAFE_METHODS:
        return
    headers = {name.lower(): value for name, value in request.headers.items()}
    if access.is_cross_site(headers, request.get_host(), request.is_secure()):
        text = "A browser marked this request as sent by another site's page. Nothing was done."
        text += access.origin_hint(
            headers.get("origin", ""), request.get_host(), request.is_secure()
        )
        raise Problem("foreign", text)


def actor_of(request: HttpRequest) -> Actor:
    """Return the signed-in person, or the client's key, as the actor, for the record."""
    key = key_of(request)
    if key is not None:  # a user's name has no space in it
        return Actor(f"key {key.name}", "api", None, *access.origin_of(request))
    user = cast(Any, request).auth
    return Actor(user.get_username(), "api", user.pk, *access.origin_of(request))


def key_of(request: HttpRequest) -> KeyFacts | None:
    """Return the client's key; None if a person sent the request."""
    found = cast(Any, request).auth
    return found if isinstance(found, KeyFacts) else None
