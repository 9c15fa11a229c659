"""Responses outside the operations: wrong methods, unknown addresses, early failures."""

from __future__ import annotations

from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, reverse
from django.views.decorators.csrf import csrf_exempt

from switcher.api import problems
from switcher.api.problems import Problem


def with_fallbacks(pattern: URLPattern) -> URLPattern:
    """Wrap an address: HEAD works wherever GET does (RFC 9110, 9.3.2), a wrong method gets a
    problem document, and no response is cached.
    """
    view = pattern.callback

    @csrf_exempt  # as ninja's own views are: they check the origin of a request themselves
    @wraps(view)
    async def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        is_head = request.method == "HEAD"
        if is_head:
            request.method = "GET"
        response: HttpResponse = await view(request, *args, **kwargs)
        response.setdefault("Cache-Control", "no-store")
        if response.status_code == 405:
            return _not_allowed(request, response["Allow"])
        if is_head:
            response["Content-Length"] = str(len(response.content))
            response.content = b""
        return response

    return URLPattern(pattern.pattern, wrapped, pattern.default_args, pattern.name)


def _not_allowed(request: HttpRequest, allow: str) -> HttpResponse:
    allowed = sorted(allow.split(", "))
    text = f"This address accepts {' or '.join(allowed)}."
    response = problems.render(request, Problem("method-not-allowed", text))
    response["Allow"] = ", ".join(allowed)
    return response


@csrf_exempt
def unknown(request: HttpRequest, **_: Any) -> HttpResponse:
    """Return 404 for an unknown address under the API."""
    text = f"There is no {request.path} here. The API is described at {reverse('api-docs')}."
    return problems.render(request, Problem("no-such-address", text))


def is_ours(request: HttpRequest) -> bool:
    """Return whether the request is for the API, and not for a page."""
    path = request.path_info
    return path.startswith("/ollama/") or path in {"/health", "/audit/export"}


def bad_request(request: HttpRequest) -> HttpResponse:
    """Return 400 for requests that Django itself refuses, such as for an unknown host name."""
    text = "The request is not valid. Check that its Host header names this server."
    return problems.render(request, Problem("bad-request", text, 400))


def server_error(request: HttpRequest, outage: str = "") -> HttpResponse:
    """Return 500 for a failure before an operation began; 503 for an outage of the database."""
    if outage:
        return problems.render(request, problems.no_database(outage))
    return problems.render(request, Problem("internal", problems.INTERNAL_TEXT))
