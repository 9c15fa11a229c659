"""What goes wrong, as RFC 9457 problem documents. The only place that knows their statuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse

from switcher.api.schemas import active_json, event_json
from switcher.domain.errors import BadRequest, SwitcherError, SwitchRunning
from switcher.domain.states import State
from switcher.ollama.errors import OllamaError
from switcher.queries.hosts import HostSettings
from switcher.queries.switches import SwitchDetail

MEDIA_TYPE = "application/problem+json"
INTERNAL = "Switchboard failed at this. The reason is in the server's log."
RETRY_AFTER_S = 10

# By the code of an error, whether it was raised here or ended a switch. Codes are also the end of
# a problem's `type`, so that clients need not read the text.
STATUS: dict[str, int] = {
    "bad-request": 422,
    "not-found": 404,
    "no-such-model": 404,
    "conflict": 409,
    "host-busy": 409,
    "fence-lost": 409,
    "switch-running": 409,
    "plan-outdated": 409,
    "plan-blocked": 409,
    "cancelled": 409,
    "refused": 502,
    "not-done": 502,
    "bad-answer": 502,
    "cut": 502,
    "below-floor": 502,
    "not-resident": 502,
    "not-published": 502,
    "interrupted": 503,
    "unreachable": 503,
    "server-busy": 503,
    "timed-out": 504,
    "internal": 500,
    "trail-broken": 500,
    "trail-unreadable": 500,
    "audit-key": 500,
    "not-archived": 500,
}
TITLES: dict[str, str] = {
    "trail-broken": "The audit trail does not follow from what was signed",
    "trail-unreadable": "The audit trail cannot be read",
    "audit-key": "The audit trail's key cannot be used",
    "not-archived": "Old audit entries could not be moved",
    "host-busy": "Something else is at work on the host",
    "fence-lost": "Another worker has taken over",
    "bad-json": "The body is not JSON",
    "bad-request": "The request cannot be used",
    "not-signed-in": "Not signed in",
    "not-allowed": "Not allowed",
    "foreign": "Sent by another site",
    "not-found": "Not found",
    "no-such-address": "No such address",
    "method-not-allowed": "Not with this method",
    "no-such-model": "No such model on the host",
    "conflict": "Something else holds this",
    "switch-running": "Another switch runs on this host",
    "plan-outdated": "The host changed after the plan was made",
    "plan-blocked": "The plan cannot work",
    "cancelled": "The switch was cancelled",
    "refused": "The host refused",
    "not-done": "The model stopped before it had answered",
    "bad-answer": "The host gave no answer of an Ollama server",
    "below-floor": "The model came up below the profile's floor",
    "not-resident": "The model did not stay loaded",
    "interrupted": "The switch was interrupted",
    "unreachable": "The host is unreachable",
    "server-busy": "The host is busy",
    "timed-out": "The host did not answer in time",
}


class Problem(Exception):
    """Something to answer instead of a result. `more` are the document's own members."""

    def __init__(
        self, code: str, status: int, detail: str, more: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.detail = detail
        self.more = more or {}


def from_error(exc: SwitcherError, host: HostSettings | None = None) -> Problem:
    """The problem for what a service or a query raised; names what is active, if known."""
    more: dict[str, Any] = {}
    if host is not None:
        more |= {"host": host.name, "active": active_json(host, None)}
    if isinstance(exc, SwitchRunning):
        more["event"] = event_json(exc.switch_id)
    if isinstance(exc, BadRequest) and exc.field:
        more["errors"] = [{"field": exc.field, "message": exc.text}]
    advice = exc.advice if isinstance(exc, OllamaError) else ""
    return Problem(exc.code, STATUS.get(exc.code, 500), f"{exc.text} {advice}".rstrip(), more)


def from_switch(row: SwitchDetail, host: HostSettings | None) -> Problem:
    """The problem for a switch that ended without its model becoming active."""
    code = row.error_code or ("cancelled" if row.state is State.CANCELLED else "internal")
    if code == "plan-blocked" and not row.digest:
        code = "no-such-model"  # the plan found nothing to load by that name
    more: dict[str, Any] = {
        "host": row.host,
        "state": row.state.value,
        "active": active_json(host, row.after) if host else None,
        "restored": row.restored or None,
        "degraded": row.degraded,
        "event": event_json(row.id),
        "duration_s": row.duration_s,
    }
    detail = " ".join(text for text in (row.outcome, row.error) if text)
    return Problem(code, STATUS.get(code, 502), detail, more)


def render(request: HttpRequest, problem: Problem) -> HttpResponse:
    """The answer. `instance` is the switch where there is one, else what was asked for."""
    event = problem.more.get("event")
    document = {
        "type": f"urn:switchboard:problem:{problem.code}",
        "title": TITLES.get(problem.code) or HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": event["url"] if event else request.path,
        **problem.more,
    }
    content = json.dumps(document, cls=DjangoJSONEncoder, ensure_ascii=False)
    response = HttpResponse(content, status=problem.status, content_type=MEDIA_TYPE)
    if problem.status == 503:
        response["Retry-After"] = str(RETRY_AFTER_S)
    if problem.status == 401:
        # RFC 9110 wants a challenge with every 401; no browser asks for a password at this one.
        response["WWW-Authenticate"] = 'Cookie realm="Switchboard", cookie-name=session_id'
    response["Cache-Control"] = "no-store"
    return response
