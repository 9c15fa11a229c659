"""What every page needs: who looks, what they may do, and how a page is rendered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django_htmx.http import HttpResponseClientRedirect

from switcher import access
from switcher.domain.clock import system
from switcher.domain.errors import NotFound, TrailUnreadable
from switcher.records import Actor

THEMES = (("system", "Same as this device"), ("light", "Light"), ("dark", "Dark"))
CANNOT_SWITCH = "Your account may look, but not switch. An admin can make you an operator."
CANNOT_ADMINISTER = "Only admins change hosts and keys."
CANNOT_REVIEW = "Only auditors mark entries as reviewed. An admin can make you one."
CANNOT_EXPORT = "Only auditors and admins export the audit trail."

View = Callable[..., HttpResponseBase]


@dataclass(frozen=True, slots=True)
class Me:
    """The person who looks."""

    name: str
    theme: str
    can_switch: bool
    can_administer: bool
    is_admin: bool
    can_review: bool
    can_export: bool


@dataclass(frozen=True, slots=True)
class NavItem:
    key: str
    label: str
    href: str


def me_of(request: HttpRequest) -> Me:
    """Who looks, from the one query that loaded the user."""
    user = request.user
    return Me(
        name=user.get_username(),
        theme=access.theme(user),
        can_switch=access.can_switch(user),
        can_administer=access.can_administer(user),
        is_admin=access.is_admin(user),
        can_review=access.can_review(user),
        can_export=access.can_export(user),
    )


def actor_of(request: HttpRequest, user: Any = None, source: str = "page") -> Actor:
    """Who acts, and from where, for the record: who is signed in, or `user`."""
    user = user or request.user
    return Actor(user.get_username(), source, user.pk, *access.origin_of(request))


def show(
    request: HttpRequest,
    template: str,
    context: dict[str, Any] | None = None,
    *,
    here: str = "",
    status: int = 200,
) -> HttpResponse:
    """Render a page, or a part of one (`page.html#part`), for who looks."""
    me = me_of(request)
    now: datetime = (context or {}).get("now") or system.now()
    facts = {
        "me": me,
        "user_can_switch": me.can_switch,
        "now": now,
        "here": here,
        "nav": nav(me),
        "themes": THEMES,
    }
    response = render(request, template, facts | (context or {}), status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response


def nav(me: Me) -> tuple[NavItem, ...]:
    """Only what exists, and what this person may open."""
    items = [
        NavItem("board", "Board", reverse("board")),
        NavItem("hosts", "Hosts", reverse("hosts")),
        NavItem("profiles", "Profiles", reverse("profiles")),
        NavItem("switches", "Switches", reverse("switches")),
        NavItem("keys", "Keys", reverse("keys")),
        NavItem("audit", "Audit", reverse("audit")),
        NavItem("api", "API", "/api/docs"),
    ]
    if me.is_admin:
        items.append(NavItem("admin", "Admin", reverse("admin:index")))
    return tuple(items)


def is_htmx(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False))


def staff(view: View) -> View:
    """Only for staff; who is not signed in is sent to sign in and comes back."""
    return _only(access.can_view, "This page is for staff.", view)


def operators(view: View) -> View:
    """Only for who may switch models."""
    return _only(access.can_switch, CANNOT_SWITCH, view)


def auditors(view: View) -> View:
    """Only for who may review entries."""
    return _only(access.can_review, CANNOT_REVIEW, view)


def exporters(view: View) -> View:
    """Only for who may take the audit trail along."""
    return _only(access.can_export, CANNOT_EXPORT, view)


def admins(view: View) -> View:
    """Only for who may change hosts."""
    return _only(access.can_administer, CANNOT_ADMINISTER, view)


def _only(may: Callable[[Any], bool], why_not: str, view: View) -> View:
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return _to_login(request)
        if not may(request.user):
            return refused(request, why_not)
        try:
            return view(request, *args, **kwargs)
        except NotFound as exc:
            return _not_found(request, exc.text.rstrip("."))
        except TrailUnreadable as exc:
            context = {"title": "The audit trail cannot be read", "text": exc.text}
            return show(request, "message.html", context, status=500)

    return guarded


def _to_login(request: HttpRequest) -> HttpResponseBase:
    if is_htmx(request):
        # A fragment of the login page inside the board helps nobody.
        page = safe_next(request, request.headers.get("HX-Current-URL", "")) or reverse("board")
        return HttpResponseClientRedirect(f"{reverse('login')}?next={page}")
    return redirect_to_login(request.get_full_path())


def refused(request: HttpRequest, why: str) -> HttpResponse:
    """The 403 page, with its reason."""
    if not access.can_view(request.user):
        context = {"title": "This page is not for you", "text": why}
        return render(request, "outside.html", context, status=403)
    context = {"title": "You may not do this", "text": why}
    return show(request, "message.html", context, status=403)


def missing(request: HttpRequest, what: str) -> HttpResponse:
    """The 404 page for a thing that does not exist, or does no longer."""
    return _not_found(request, f"There is no {what}")


def _not_found(request: HttpRequest, title: str) -> HttpResponse:
    context = {"title": title, "text": "It was removed, or the address is wrong."}
    return show(request, "message.html", context, status=404)


def safe_next(request: HttpRequest, target: str) -> str:
    """An address of this site to go to, or nothing."""
    ours = url_has_allowed_host_and_scheme(target, {request.get_host()}, request.is_secure())
    return target if ours else ""
