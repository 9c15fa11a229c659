"""All addresses, and Django's own error responses: problem documents for programs, else pages."""

from __future__ import annotations

import sys
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views import defaults

from switcher.api import fallbacks
from switcher.panel.views import account
from switcher.queries.database import outage_of

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
    """Return 500, or 503 with the reason if the database cannot be used. Django has logged it."""
    outage = outage_of(sys.exc_info()[1])
    if fallbacks.is_ours(request):
        return fallbacks.server_error(request, outage)
    return account.server_error(request, outage)


handler403 = account.forbidden
handler404 = account.not_found
