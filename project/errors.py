"""Django's own error responses: a problem document for programs, a page for people."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views import defaults

from switcher.api import fallbacks
from switcher.panel.views import account


def bad_request(request: HttpRequest, exception: Exception, **_: Any) -> HttpResponse:
    """Return 400."""
    if fallbacks.is_ours(request):
        return fallbacks.bad_request(request)
    return defaults.bad_request(request, exception)


def server_error(request: HttpRequest, **_: Any) -> HttpResponse:
    """Return 500. Django has logged the reason."""
    return (
        fallbacks.server_error(request)
        if fallbacks.is_ours(request)
        else account.server_error(request)
    )
