"""Signing in, the colour theme, and error pages."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.middleware.csrf import REASON_NO_CSRF_COOKIE
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.views.decorators.http import require_POST, require_safe

from switcher import access
from switcher.domain.errors import SwitcherError
from switcher.panel.page import forbidden_page, message_page, safe_next
from switcher.queries.database import explanation
from switcher.records import config


class SignInForm(AuthenticationForm):
    """Django's form with our wording."""

    error_messages = {
        "invalid_login": "This user name and password do not match.",
        "inactive": "This account is switched off. Ask an admin.",
    }


class SignIn(LoginView):
    """The login page. Fields are `username`, `password` and `next`, for browsers and for curl."""

    template_name = "login.html"
    authentication_form = SignInForm
    redirect_authenticated_user = False

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs) | {"site": self.request.get_host()}


@require_POST
def theme(request: HttpRequest) -> HttpResponseBase:
    """Save the current user's colour theme."""
    if not request.user.is_authenticated:
        return redirect("login")
    try:
        config.save_theme(int(request.user.pk), request.POST.get("theme", ""))
    except SwitcherError as exc:
        messages.error(request, exc.text)
    return redirect(safe_next(request, request.POST.get("next", "")) or "board")


@require_safe
def favicon(request: HttpRequest) -> HttpResponseBase:
    """Redirect `/favicon.ico`, which browsers ask for by themselves, to the icon."""
    return redirect(static("favicon.svg"))


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Return the 404 page."""
    return message_page(
        request, "There is no such page", "The address is wrong, or the page has moved.", 404
    )


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Return the 403 page."""
    return forbidden_page(request, "Your account may not open this page.")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Return the 403 page for a form that was not taken, with the cause and the setting."""
    origin = request.headers.get("Origin", "")
    if reason.startswith(("Origin checking", "Referer checking")):
        referrer = request.headers.get("Referer", "")
        page = origin or "/".join(referrer.split("/")[:3]) or "null"
        hint = access.origin_hint(page, request.get_host(), request.is_secure())
        title = "This form seems to come from another site"
        return message_page(request, title, f"Nothing was changed.{hint}", 403)
    if reason == REASON_NO_CSRF_COOKIE and settings.CSRF_COOKIE_SECURE and not request.is_secure():
        text = (
            "Nothing was changed. SWITCHER_HTTPS is on, so browsers send the cookies only over "
            "HTTPS, but this page was opened over HTTP. Open it over HTTPS, or, if a proxy takes "
            "it over HTTPS, set SWITCHER_BEHIND_PROXY=1."
        )
        return message_page(request, "The browser sent no cookie", text, 403)
    text = (
        "Nothing was changed. This form was open for a long time, or in another session. "
        "Go back, reload the page and send it again."
    )
    return message_page(request, "This form is out of date", text, 403)


def server_error(request: HttpRequest, outage: str = "") -> HttpResponse:
    """Return the 500 page; the 503 page if the database cannot be used, for the reason `outage`.

    It is rendered without the request: the database may be what is broken, and would be asked who
    the user is.
    """
    context = {
        "title": "Switchboard could not answer",
        "text": "The reason is in the server's log. Running switches go on.",
    }
    if not outage:
        return HttpResponse(render_to_string("outside.html", context), status=500)
    context = {"title": "The database cannot be used", "text": explanation(outage)}
    content = render_to_string("outside.html", context)
    return HttpResponse(content, status=503, headers={"Retry-After": "10"})
