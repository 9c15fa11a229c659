"""What no operation answers: other methods, other addresses, and what fails on the way to one."""

from __future__ import annotations

from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.views.decorators.csrf import csrf_exempt

from switcher.api import problems
from switcher.api.problems import Problem

# An export leaves an entry in the trail, which looking whether there is one must not.
_NO_HEAD = frozenset({"export"})


def with_edges(pattern: URLPattern) -> URLPattern:
    """The same address: HEAD is answered wherever GET is (RFC 9110, 9.3.2), and a method that
    is not is told in a problem document."""
    view = pattern.callback

    @csrf_exempt  # as ninja's own are: their way of signing in does not rest on the cookie alone
    @wraps(view)
    async def edged(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        is_head = request.method == "HEAD" and pattern.name not in _NO_HEAD
        if is_head:
            request.method = "GET"
        response: HttpResponse = await view(request, *args, **kwargs)
        if is_head and response.status_code != 405:
            response["Content-Length"] = str(len(response.content))
            response.content = b""
        return _not_allowed(request, response) if response.status_code == 405 else response

    return URLPattern(pattern.pattern, edged, pattern.default_args, pattern.name)


def _not_allowed(request: HttpRequest, plain: HttpResponse) -> HttpResponse:
    allowed = sorted(plain["Allow"].split(", "))
    told = problems.render(
        request,
        Problem("method-not-allowed", 405, f"This address takes {' or '.join(allowed)}."),
    )
    told["Allow"] = ", ".join(allowed)
    return told


@csrf_exempt
def unknown(request: HttpRequest, **_: Any) -> HttpResponse:
    """404 for an address of the API's that is none."""
    text = f"There is no {request.path} here. The API is described at /api/docs."
    return problems.render(request, Problem("no-such-address", 404, text))


def is_ours(request: HttpRequest) -> bool:
    """Whether a program asks, and not a browser for a page."""
    return request.path.startswith("/ollama/") or request.path in {"/health", "/audit/export"}


def bad_request(request: HttpRequest) -> HttpResponse:
    """400 for what Django itself refuses, as a host name that is not ours."""
    text = "The request cannot be used: see whether its Host header names this server."
    return problems.render(request, Problem("bad-request", 400, text))


def server_error(request: HttpRequest) -> HttpResponse:
    """500 for what failed before an operation began."""
    return problems.render(request, Problem("internal", 500, problems.INTERNAL))
