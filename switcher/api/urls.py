"""Addresses of the control API; included at the root."""

from __future__ import annotations

import json
from typing import Any

from csp.decorators import csp_update
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import URLPattern, get_script_prefix, include, path, re_path, reverse
from django.views.decorators.http import require_safe

from switcher import access
from switcher.api.auth import SIGN_IN
from switcher.api.fallbacks import unknown, with_fallbacks
from switcher.api.health import health
from switcher.api.problems import MEDIA_TYPE, Problem
from switcher.api.problems import render as render_problem
from switcher.api.views import api

NO_STAFF = Problem("not-allowed", "The API is for staff.")


@require_safe
def openapi(request: HttpRequest) -> HttpResponse:
    """Describe the API to users who may use it."""
    if not request.user.is_authenticated:
        return render_problem(request, Problem("not-signed-in", SIGN_IN))
    if not access.can_view(request.user):
        return render_problem(request, NO_STAFF)
    return JsonResponse(description(), headers={"Cache-Control": "no-store"})


def description() -> dict[str, Any]:
    """Return the OpenAPI document."""
    document: dict[str, Any] = api.get_openapi_schema(path_prefix=get_script_prefix().rstrip("/"))
    for operations in document["paths"].values():
        for operation in operations.values():
            _name_problems(operation["responses"])
    return document


def _name_problems(responses: dict[Any, Any]) -> None:
    """Give errors their own media type (RFC 9457), as ninja only supports one for all responses."""
    for status, response in responses.items():
        content = response.get("content")
        if int(status) >= 400 and content and "application/json" in content:
            response["content"] = {MEDIA_TYPE: content["application/json"]}


# Swagger UI loads its icons from data: URLs in its style sheet. No other page may.
@require_safe
@csp_update({"img-src": ["data:"]})  # type: ignore[untyped-decorator]  # csp has no types
def docs(request: HttpRequest) -> HttpResponse:
    """Show the description in a self-hosted Swagger UI."""
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
    """Return ninja's addresses without its root, which would hide the page at `/`."""
    patterns, _, _ = api.urls
    operations = (p for p in patterns if isinstance(p, URLPattern) and p.name != "api-root")
    return [with_fallbacks(p) for p in operations]


urlpatterns = [
    path("health", health, name="health"),
    path("api/docs", docs, name="api-docs"),
    path("api/openapi.json", openapi, name="openapi"),
    path("", include((_operations(), "api"))),
    re_path(r"^ollama(?:/|$)", unknown),
]
