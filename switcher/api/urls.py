"""Addresses of the control API; included at the root."""

from __future__ import annotations

import json
from typing import Any

from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, URLResolver, include, path, reverse
from django.views.decorators.http import require_safe

from switcher.api import export as export  # its operation is one of the API's
from switcher.api.health import health
from switcher.api.problems import MEDIA_TYPE
from switcher.api.views import answer, api


@require_safe
def openapi(request: HttpRequest) -> HttpResponse:
    """The description of the API."""
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
    settings = {
        "layout": "BaseLayout",
        "deepLinking": True,
        "url": reverse("openapi"),
        "validatorUrl": None,
    }
    context = {"api": api, "swagger_settings": json.dumps(settings)}
    return render(request, "ninja/swagger.html", context)


def _operations() -> list[URLPattern | URLResolver]:
    """Ninja's own addresses but its root, which would stand in the way of the page at `/`."""
    patterns, _, _ = api.urls
    return [p for p in patterns if getattr(p, "name", None) != "api-root"]


urlpatterns = [
    path("health", health, name="health"),
    path("api/docs", docs, name="api-docs"),
    path("api/openapi.json", openapi, name="openapi"),
    path("", include((_operations(), "api"))),
]
