"""What every page needs: who may open it, who acts, and how it is rendered."""

from __future__ import annotations

from collections.abc import Callable
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
SECTIONS = ("board", "hosts", "profiles", "switches", "keys", "audit")
CANNOT_SWITCH = "Your account can view this, but not switch. An admin can make you an operator."
CANNOT_ADMINISTER = "Only admins can change hosts and keys."
CANNOT_REVIEW = "Only auditors can mark entries as reviewed. An admin can make you one."
CANNOT_EXPORT = "Only auditors and admins can export the audit trail."

View = Callable[..., HttpResponseBase]


def actor_of(request: HttpRequest, user: Any = None, source: str = "page") -> Actor:
    """Return who acts and from where, for the record: `user`, or else the signed-in user."""
    user = user or request.user
    return Actor(user.get_username(), source, user.pk, *access.origin_of(request))


def render_page(
    request: HttpRequest,
    template: str,
    context: dict[str, Any] | None = None,
    *,
    section: str = "",
    status: int = 200,
) -> HttpResponse:
    """Render a page or a part of one (`page.html#part`). `section` is its navigation item."""
    now: datetime = (context or {}).get("now") or system.now()
    common = {
        "user_can_switch": access.can_switch(request.user),
        "now": now,
        "section": section,
        "navigation": navigation(request.user),
        "themes": THEMES,
    }
    response = render(request, template, common | (context or {}), status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response


def navigation(user: Any) -> list[dict[str, str]]:
    """Return the pages that this user may open."""
    pages = [(key, key.capitalize(), reverse(key)) for key in SECTIONS]
    pages.append(("api", "API", reverse("api-docs")))
    if access.is_admin(user):
        pages.append(("admin", "Admin", reverse("admin:index")))
    return [{"key": key, "label": label, "href": href} for key, label, href in pages]


def is_htmx(request: HttpRequest) -> bool:
    """Return whether htmx asks for a part of a page."""
    return bool(getattr(request, "htmx", False))


def _only(is_allowed: Callable[[Any], bool], reason: str) -> Callable[[View], View]:
    """Return a decorator that lets in only users who may open a page. Others get the reason, or
    sign in first and come back."""

    def decorator(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return _to_login(request)
            if not is_allowed(request.user):
                return forbidden_page(request, reason)
            try:
                return view(request, *args, **kwargs)
            except NotFound as exc:
                return not_found_page(request, exc.text.rstrip("."))
            except TrailUnreadable as exc:
                return message_page(request, "The audit trail cannot be read", exc.text, 500)

        return guarded

    return decorator


staff_only = _only(access.can_view, "This page is for staff.")
operators_only = _only(access.can_switch, CANNOT_SWITCH)
auditors_only = _only(access.can_review, CANNOT_REVIEW)
exporters_only = _only(access.can_export, CANNOT_EXPORT)
admins_only = _only(access.can_administer, CANNOT_ADMINISTER)


def _to_login(request: HttpRequest) -> HttpResponseBase:
    if is_htmx(request):
        # The login page would otherwise be swapped into a part of this page.
        page = safe_next(request, request.headers.get("HX-Current-URL", "")) or reverse("board")
        return HttpResponseClientRedirect(f"{reverse('login')}?next={page}")
    return redirect_to_login(request.get_full_path())


def message_page(request: HttpRequest, title: str, text: str, status: int) -> HttpResponse:
    """Return a page that only says something; without the navigation if it is not for this user."""
    context = {"title": title, "text": text}
    if access.can_view(request.user):
        return render_page(request, "message.html", context, status=status)
    return render(request, "outside.html", context, status=status)


def forbidden_page(request: HttpRequest, reason: str) -> HttpResponse:
    """Return the 403 page with its reason."""
    may_view = access.can_view(request.user)
    title = "You may not do this" if may_view else "This page is not for you"
    return message_page(request, title, reason, 403)


def not_found_page(request: HttpRequest, title: str) -> HttpResponse:
    """Return the 404 page for something that does not exist, or no longer does."""
    return message_page(request, title, "It was removed, or the address is wrong.", 404)


def safe_next(request: HttpRequest, target: str) -> str:
    """Return the address if it is one of this site, otherwise an empty string."""
    ours = url_has_allowed_host_and_scheme(target, {request.get_host()}, request.is_secure())
    return target if ours else ""


def whole_number(request: HttpRequest, name: str) -> int | None:
    """Return a whole number from the address; None if it is missing, not a number, or more than a
    database can hold."""
    text = request.GET.get(name, "")
    return int(text) if is_whole_number(text) else None


def is_whole_number(text: str) -> bool:
    """Return whether the text is a whole number that a database can hold."""
    return text.isascii() and text.isdecimal() and len(text) < 19
