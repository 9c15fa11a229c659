"""Signing in, on our page and in the Django admin alike: passwords, lockouts, and their entries.

Also the middleware that attributes changes to the user of a request.
"""

from __future__ import annotations

import math
from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.deprecation import MiddlewareMixin

from switcher import access
from switcher.domain.clock import system
from switcher.panel.page import actor_of
from switcher.records import Actor, logins, people
from switcher.records.logins import Lockout

SCOPES = {
    logins.PAIR: "under this name from your address",
    logins.ADDRESS: "from your address",
    logins.NAME: "under this name",
}


class LockedOut(Exception):
    """The name or the address is locked out. The message does not tell whether the password was
    right."""

    def __init__(self, lockout: Lockout) -> None:
        super().__init__(lockout)
        self.lockout = lockout


class PasswordBackend(access.RoleBackend):
    """A backend that checks passwords, unless the name or the address is locked out."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the user, or None. Raises LockedOut."""
        _check_not_locked(request, username)
        user = ModelBackend.authenticate(self, request, username, password, **kwargs)
        if user is not None:
            # Check again: of many concurrent guesses, all passed the first check before one had
            # failed.
            _check_not_locked(request, username)
        return user


def _check_not_locked(request: HttpRequest | None, name: str | None) -> None:
    address = access.address_of(request) if request is not None else None
    lockout = logins.lockout_of(name or "", address)
    if lockout is not None:
        raise LockedOut(lockout)


@receiver(user_login_failed)
def _record_failure(
    credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any
) -> None:
    if request is None:
        return
    actor = _actor_in(request, access.NOBODY)
    lockout = logins.failed(credentials.get("username") or "", actor)
    if lockout is not None:
        raise LockedOut(lockout)


@receiver(user_logged_in)
def _record_login(request: HttpRequest, user: Any, **_: Any) -> None:
    logins.succeeded(_actor_in(request, user))


@receiver(user_logged_out)
def _record_logout(request: HttpRequest, user: Any, **_: Any) -> None:
    if user is not None:
        logins.ended(_actor_in(request, user))


def _actor_in(request: HttpRequest, user: Any = None) -> Actor:
    """Return who acts in a person's request: `user`, or the signed-in user."""
    in_admin = request.path.startswith(reverse("admin:index"))
    return actor_of(request, user, "admin" if in_admin else "page")


class SignInMiddleware(MiddlewareMixin):
    """A middleware that attributes changes of accounts to the signed-in user, and turns LockedOut
    into a page.
    """

    def __call__(self, request: HttpRequest) -> Any:
        if self.async_mode:
            return self._answer(request)
        with people.acting(lambda: _actor_in(request)):
            return self.get_response(request)

    async def _answer(self, request: HttpRequest) -> Any:
        with people.acting(lambda: _actor_in(request)):
            response: Any = self.get_response(request)
            return await response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return locked_out(request, exception.lockout) if isinstance(exception, LockedOut) else None


def locked_out(request: HttpRequest, lockout: Lockout) -> HttpResponse:
    """Return 429 with the time at which the lockout ends. It is the same for unknown names, so it
    does not reveal which accounts exist."""
    left_s = max(1, math.ceil((lockout.until - system.now()).total_seconds()))
    minutes = math.ceil(left_s / 60)
    context = {
        "what": SCOPES[lockout.rule],
        "until": lockout.until,
        "minutes": f"{minutes} minute{'' if minutes == 1 else 's'}",
    }
    response = render(request, "locked.html", context, status=429)
    response["Retry-After"] = str(left_s)
    response["Cache-Control"] = "no-store"
    return response
