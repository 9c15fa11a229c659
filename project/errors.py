"""What Django answers by itself: for programs a problem document, for people a page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views import defaults

from switcher.api import fallbacks
from switcher.panel.views import account


def bad_request(request: HttpRequest, exception: Exception, **_: Any) -> HttpResponse:
    """400."""
    if fallbacks.is_ours(request):
        return fallbacks.bad_request(request)
    return defaults.bad_request(request, exception)


def server_error(request: HttpRequest, **_: Any) -> HttpResponse:
    """500. The reason is in the log: Django wrote it there."""
    return (
        fallbacks.server_error(request)
        if fallbacks.is_ours(request)
        else account.server_error(request)
    )
