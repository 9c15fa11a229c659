"""Signing in, on our page and on the Django admin's alike: what axes asks, what it answers, and who
acts in a request."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from axes.handlers.base import AxesHandler
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from switcher import access
from switcher.domain.clock import system
from switcher.panel.page import actor_of
from switcher.records import Actor, logins, people
from switcher.records.logins import Lock


def actor_in(request: HttpRequest, user: Any = None) -> Actor:
    """Who acts in a request of a person: `user`, or who is signed in."""
    in_admin = request.path.startswith(reverse("admin:index"))
    return actor_of(request, user, "admin" if in_admin else "page")


class Acting:
    """Middleware: who is signed in makes the changes that a request makes to people."""

    async_capable = True
    sync_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self):
            return self._answer(request)
        with people.acting(lambda: actor_in(request)):
            return self._get_response(request)

    async def _answer(self, request: HttpRequest) -> Any:
        with people.acting(lambda: actor_in(request)):
            return await self._get_response(request)


class Lockouts(AxesHandler):  # type: ignore[misc]  # axes has no types
    """What axes asks: whether to let somebody try, and what to note."""

    def is_locked(self, request: Any, credentials: dict[str, Any] | None = None) -> bool:
        name = (credentials or {}).get("username") or ""
        request.lock = logins.lock_of(name, access.address_of(request))
        return request.lock is not None

    def user_login_failed(
        self, sender: Any, credentials: dict[str, Any], request: Any = None, **_: Any
    ) -> None:
        if request is None or request.axes_locked_out:
            return  # it was not tried
        nobody = actor_in(request, access.NOBODY)
        request.lock = logins.failed(credentials.get("username") or "", nobody)
        request.axes_locked_out = request.lock is not None

    def user_logged_in(self, sender: Any, request: Any, user: Any, **_: Any) -> None:
        logins.succeeded(actor_in(request, user))

    def user_logged_out(self, sender: Any, request: Any, user: Any, **_: Any) -> None:
        if user is not None:
            logins.ended(actor_in(request, user))

    def reset_attempts(
        self,
        *,
        ip_address: str | None = None,
        username: str | None = None,
        ip_or_username: bool = False,
    ) -> int:
        actor = people.at_this_terminal()
        return logins.unlock(username, ip_address, actor, either=ip_or_username)


WHAT = {
    logins.PAIR: "under this name from your address",
    logins.ADDRESS: "from your address",
    logins.NAME: "under this name",
}


def locked_out(request: HttpRequest, *_: object) -> HttpResponse:
    """429, with when it ends. The same for a name that is no account: whether it is one, nobody
    learns here."""
    lock: Lock = request.lock  # type: ignore[attr-defined]
    left_s = max(1, math.ceil((lock.until - system.now()).total_seconds()))
    minutes = math.ceil(left_s / 60)
    context = {
        "what": WHAT[lock.rule],
        "until": lock.until,
        "minutes": f"{minutes} minute{'' if minutes == 1 else 's'}",
    }
    response = render(request, "locked.html", context, status=429)
    response["Retry-After"] = str(left_s)
    response["Cache-Control"] = "no-store"
    return response
