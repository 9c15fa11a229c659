"""Addresses of the control API; included at the root."""

from __future__ import annotations

import json
from typing import Any

from csp.decorators import csp_update
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, include, path, re_path, reverse
from django.views.decorators.http import require_safe

from switcher import access
from switcher.api import export as export  # its operation is one of the API's
from switcher.api import usage as usage  # and its
from switcher.api.auth import SIGN_IN
from switcher.api.fallbacks import unknown, with_edges
from switcher.api.health import health
from switcher.api.problems import MEDIA_TYPE, Problem
from switcher.api.problems import render as render_problem
from switcher.api.views import answer, api

NO_STAFF = Problem("not-allowed", 403, "The API is for staff.")


@require_safe
def openapi(request: HttpRequest) -> HttpResponse:
    """The description of the API, for who may use it."""
    if not request.user.is_authenticated:
        return render_problem(request, Problem("not-signed-in", 401, SIGN_IN))
    if not access.can_view(request.user):
        return render_problem(request, NO_STAFF)
    described = api.get_openapi_schema(path_prefix="")
    for operations in described["paths"].values():
        for operation in operations.values():
            _name_problems(operation["responses"])
    return answer(described)


def _name_problems(responses: dict[Any, Any]) -> None:
    """Ninja knows one media type for all answers; errors have their own (RFC 9457)."""
    for status, response in responses.items():
        content = response.get("content")
        if int(status) >= 400 and content and "application/json" in content:
            response["content"] = {MEDIA_TYPE: content["application/json"]}


# Swagger UI draws its icons from data: addresses in its own style sheet. Its page is the only one
# that may, and nothing else of the policy is loosened.
@require_safe
@csp_update({"img-src": ["data:"]})  # type: ignore[untyped-decorator]  # csp has no types
def docs(request: HttpRequest) -> HttpResponse:
    """Swagger UI over it, all of it served from here."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    if not access.can_view(request.user):
        return render_problem(request, NO_STAFF)
    settings = {
        "layout": "BaseLayout",
        "deepLinking": True,
        "url": reverse("openapi"),
        "validatorUrl": None,
    }
    context = {"api": api, "swagger_settings": json.dumps(settings)}
    return render(request, "ninja/swagger.html", context)


def _operations() -> list[URLPattern]:
    """Ninja's own addresses but its root, which would stand in the way of the page at `/`."""
    patterns, _, _ = api.urls
    return [with_edges(p) for p in patterns if isinstance(p, URLPattern) and p.name != "api-root"]


urlpatterns = [
    path("health", health, name="health"),
    path("api/docs", docs, name="api-docs"),
    path("api/openapi.json", openapi, name="openapi"),
    path("", include((_operations(), "api"))),
    re_path(r"^ollama(?:/|$)", unknown),
]
