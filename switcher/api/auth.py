"""Authentication: the signed-in person behind the session cookie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from django.conf import settings
from django.http import HttpRequest
from ninja.security.base import AuthBase

from switcher import access
from switcher.api.problems import Problem
from switcher.concurrency.threads import in_thread
from switcher.records import Actor

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SIGN_IN = "Sign in at /login/ and send the session_id cookie."


@dataclass(frozen=True, slots=True)
class Person:
    """A signed-in person and their permissions."""

    id: int
    name: str
    may_view: bool
    may_switch: bool
    may_export: bool


class SessionCookie(AuthBase):
    """Authentication by the session cookie. That is enough, because requests that a browser marks
    as coming from another site are refused first.
    """

    openapi_type = "apiKey"
    openapi_in = "cookie"
    openapi_name = settings.SESSION_COOKIE_NAME

    def __init__(self, *, to_switch: bool = False, to_export: bool = False) -> None:
        self._to_switch = to_switch
        self._to_export = to_export
        super().__init__()

    async def __call__(self, request: HttpRequest) -> Person:
        return await self.authenticate(request)

    async def authenticate(self, request: HttpRequest) -> Person:
        _check_same_site(request)
        person = await in_thread(_person, request)
        if person is None:
            raise Problem("not-signed-in", SIGN_IN)
        if not person.may_view:
            raise Problem("not-allowed", f"{person.name} is not staff.")
        if self._to_switch and not person.may_switch:
            text = f"{person.name} may not switch models."
            raise Problem("not-allowed", text)
        if self._to_export and not person.may_export:
            text = f"{person.name} may not export the audit trail."
            raise Problem("not-allowed", text)
        return person


viewer = SessionCookie()
operator = SessionCookie(to_switch=True)
exporter = SessionCookie(to_export=True)


def _check_same_site(request: HttpRequest) -> None:
    if request.method in SAFE_METHODS:
        return
    headers = {name.lower(): value for name, value in request.headers.items()}
    if access.is_cross_site(headers, request.get_host(), request.is_secure()):
        text = "A browser marked this request as sent by another site's page. Nothing was done."
        raise Problem("foreign", text)


def _person(request: HttpRequest) -> Person | None:
    """Return who is signed in. Reads the session and the user from the database."""
    user = request.user
    if not user.is_authenticated:
        return None
    return Person(
        user.pk,
        user.get_username(),
        may_view=access.can_view(user),
        may_switch=access.can_switch(user),
        may_export=access.can_export(user),
    )


def actor_of(request: HttpRequest) -> Actor:
    """Return the signed-in person as the actor, for the record."""
    person: Person = cast(Any, request).auth
    return Actor(person.name, "api", person.id, *access.origin_of(request))
