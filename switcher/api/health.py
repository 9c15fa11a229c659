"""`/health`: whether this server is in order, for monitors without an account."""

from __future__ import annotations

import logging
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.deprecation import MiddlewareMixin
from django.views.decorators.http import require_safe

from switcher.audit import health as audit
from switcher.watching.health import checks

log = logging.getLogger(__name__)

PATH = "/health"


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """Return the state of the server; it holds no secrets.

    The status is 200 even with problems: a dead sink of the audit trail, or a host that is down, is
    no reason to take the server out of service. Monitors check `ok`.
    """
    response = JsonResponse(_status())
    response["Cache-Control"] = "no-store"
    return response


def _status() -> dict[str, Any]:
    trail = _trail_status()
    found = checks()
    problems = [*trail["problems"], *(check.problem for check in found if check.problem)]
    shown = {check.name: check.to_json() for check in found}
    return trail | {"ok": not problems, "problems": problems, "checks": shown}


def _trail_status() -> dict[str, Any]:
    try:
        return audit.health().to_json()
    except Exception:
        # Monitors must learn of any error.
        log.exception("the state of the audit trail could not be read")
        return {"ok": False, "problems": [audit.UNKNOWN], "audit": None}


class HealthMiddleware(MiddlewareMixin):
    """A middleware, the first one, that answers `/health` by itself.

    Probes call a server by its address, which need not be an allowed host name; and the other
    middleware needs the database.
    """

    def __call__(self, request: HttpRequest) -> Any:
        if request.path_info != PATH:
            return self.get_response(request)
        # Not in the pool for rows: a locked database may occupy all of that.
        answer = sync_to_async(_answer_in_thread, thread_sensitive=False)
        return answer(request) if self.async_mode else _answer(request)


def _answer_in_thread(request: HttpRequest) -> HttpResponse:
    try:
        return _answer(request)
    finally:
        connections.close_all()


def _answer(request: HttpRequest) -> HttpResponse:
    response = health(request)
    if request.method == "HEAD":
        response.headers["Content-Length"] = str(len(response.content))
        response.content = b""
    return response
