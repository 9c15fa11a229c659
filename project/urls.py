"""All addresses, and Django's own error responses: problem documents for programs, else pages."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views import defaults

from switcher.api import fallbacks
from switcher.panel.views import account

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("switcher.api.urls")),
    path("", include("switcher.panel.urls")),
]


def handler400(request: HttpRequest, exception: Exception, **_: Any) -> HttpResponse:
    """Return 400."""
    if fallbacks.is_ours(request):
        return fallbacks.bad_request(request)
    return defaults.bad_request(request, exception)


def handler500(request: HttpRequest, **_: Any) -> HttpResponse:
    """Return 500. Django has logged the reason."""
    if fallbacks.is_ours(request):
        return fallbacks.server_error(request)
    return account.server_error(request)


handler403 = account.forbidden
handler404 = account.not_found
