"""Signing in and out, colours, and the pages for when something is not there."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.views.decorators.http import require_POST, require_safe

from switcher import access
from switcher.domain.errors import SwitcherError
from switcher.panel.page import refused, safe_next, show
from switcher.records import config


class SignInForm(AuthenticationForm):
    """Django's, with our words."""

    error_messages = {
        "invalid_login": "This user name and password do not belong together.",
        "inactive": "This account is switched off. Ask an admin.",
    }


class SignIn(LoginView):
    """`username`, `password` and `next`; works from curl as from a browser."""

    template_name = "login.html"
    authentication_form = SignInForm
    redirect_authenticated_user = False

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        # The token sets the cookie, also for a curl that reads only the headers.
        return super().get_context_data(**kwargs) | {"site": self.request.get_host()}


@require_POST
def theme(request: HttpRequest) -> HttpResponseBase:
    """Keep a person's choice of colours."""
    if not request.user.is_authenticated:
        return redirect("login")
    try:
        config.save_theme(int(request.user.pk), request.POST.get("theme", ""))
    except SwitcherError as exc:
        messages.error(request, exc.text, extra_tags="failed")
    return redirect(safe_next(request, request.POST.get("next", "")) or "board")


@require_safe
def favicon(request: HttpRequest) -> HttpResponseBase:
    """Browsers ask for this address by themselves."""
    return redirect(static("favicon.svg"), permanent=True)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """404."""
    return _message(
        request, "There is no such page", "The address is wrong, or the page has moved.", 404
    )


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """403."""
    return refused(request, "Your account may not open this page.")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403 for a form whose token is missing or old."""
    text = (
        "Nothing was changed. This form was open for long, or in another session. "
        "Go back, reload the page and send it again."
    )
    return _message(request, "This form is out of date", text, 403)


def server_error(request: HttpRequest) -> HttpResponse:
    """500. Asks nothing of the database: that may be what is broken."""
    context = {
        "title": "Switchboard could not answer",
        "text": "The reason is in the server's log. Switches under way go on without this page.",
    }
    return render(request, "outside.html", context, status=500)


def _message(request: HttpRequest, title: str, text: str, status: int) -> HttpResponse:
    context = {"title": title, "text": text}
    if access.can_view(request.user):
        return show(request, "message.html", context, status=status)
    return render(request, "outside.html", context, status=status)
