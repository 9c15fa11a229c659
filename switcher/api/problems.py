"""Errors as RFC 9457 problem documents; the only module that knows their HTTP statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse

from switcher.api.schemas import ActiveModel, EventRef, FieldError, ProblemDocument
from switcher.domain.errors import BadRequest, SwitcherError, SwitchRunning
from switcher.domain.states import State
from switcher.ollama.errors import OllamaError
from switcher.queries.database import explanation
from switcher.queries.hosts import HostSettings
from switcher.queries.switches import SwitchDetail

MEDIA_TYPE = "application/problem+json"
INTERNAL_TEXT = "Switchboard could not handle this request. The reason is in the server's log."
RETRY_AFTER_S = 10
EXAMPLE = '{"model": "qwen2.5:14b"}'

# Status and title by the code of an error, whether it was raised here or ended a switch. A code is
# also the end of a problem's `type`, so that clients need not read the text.
KINDS: dict[str, tuple[int, str]] = {
    "bad-json": (400, "The body is not JSON"),
    "not-signed-in": (401, "Not signed in"),
    "not-allowed": (403, "Not allowed"),
    "foreign": (403, "Sent by another site"),
    "not-found": (404, "Not found"),
    "no-such-address": (404, "No such address"),
    "no-such-model": (404, "No such model on the host"),
    "method-not-allowed": (405, "Method not allowed"),
    "conflict": (409, "Conflict"),
    "host-busy": (409, "Something else is at work on the host"),
    "fence-lost": (409, "Another worker has taken over"),
    "switch-running": (409, "Another switch runs on this host"),
    "plan-outdated": (409, "The host changed after the plan was made"),
    "plan-blocked": (409, "The plan cannot work"),
    "cancelled": (409, "The switch was cancelled"),
    "too-large": (413, "The body is too large"),
    "bad-request": (422, "Invalid request"),
    "internal": (500, "Internal server error"),
    "trail-broken": (500, "The audit trail does not follow from what was signed"),
    "trail-unreadable": (500, "The audit trail cannot be read"),
    "audit-key": (500, "The audit trail's key cannot be used"),
    "not-archived": (500, "Old audit entries could not be moved"),
    "refused": (502, "The host refused"),
    "not-done": (502, "The model stopped before it had answered"),
    "address-refused": (502, "The host's address is refused"),
    "credentials-unreadable": (502, "The host's credentials cannot be used"),
    "bad-answer": (502, "The host does not answer like an Ollama server"),
    "cut": (502, "The connection to the host was cut"),
    "below-floor": (502, "The model is below the profile's floor"),
    "not-resident": (502, "The model did not stay loaded"),
    "not-published": (502, "The published name could not be set"),
    "no-database": (503, "The database cannot be used"),
    "interrupted": (503, "The switch was interrupted"),
    "unreachable": (503, "The host is unreachable"),
    "server-busy": (503, "The host is busy"),
    "timed-out": (504, "The host did not answer in time"),
}


class Problem(Exception):
    """A response instead of a result. `members` are added to its document."""

    def __init__(self, code: str, detail: str, status: int = 0, **members: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status or KINDS.get(code, (500, ""))[0]
        self.title = KINDS.get(code, (0, HTTPStatus(self.status).phrase))[1]
        self.detail = detail
        self.members = members


def from_error(exc: SwitcherError, host: HostSettings | None = None) -> Problem:
    """Return the problem for an error of a service or query; names the active model, if known."""
    members: dict[str, Any] = {}
    if host is not None:
        members |= {"host": host.name, "active": ActiveModel.of(host, None)}
    if isinstance(exc, SwitchRunning):
        members["event"] = EventRef.to(exc.switch_id)
    if isinstance(exc, BadRequest) and exc.field:
        members["errors"] = [FieldError(field=exc.field, message=exc.text)]
    advice = exc.advice if isinstance(exc, OllamaError) else ""
    return Problem(exc.code, f"{exc.text} {advice}".rstrip(), **members)


def no_database(outage: str) -> Problem:
    """Return the problem for an outage of the database (`outage_of`)."""
    return Problem("no-database", explanation(outage))


def from_switch(row: SwitchDetail, host: HostSettings | None) -> Problem:
    """Return the problem for a switch that ended without its model becoming active."""
    code = row.error_code or ("cancelled" if row.state is State.CANCELLED else "internal")
    if code == "plan-blocked" and not row.digest:
        code = "no-such-model"  # the plan found no model of that name
    return Problem(
        code,
        " ".join(text for text in (row.outcome, row.error) if text),
        0 if code in KINDS else 502,
        host=row.host,
        state=row.state,
        active=ActiveModel.of(host, row.after),
        restored=row.restored,
        degraded=row.degraded,
        event=EventRef.to(row.id),
        duration_s=row.duration_s,
    )


def from_invalid(errors: Sequence[Mapping[str, Any]], body_fields: Sequence[str]) -> Problem:
    """Return the problem for a request that does not fit its schema, with one sentence per
    field."""
    by_field: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        by_field.setdefault(_field(error), []).append(error)
    found = [
        FieldError(field=field, message=_sentence(field, group, body_fields))
        for field, group in by_field.items()
    ]
    return Problem("bad-request", " ".join(e.message for e in found), errors=found)


_TYPES = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
}


def _field(error: Mapping[str, Any]) -> str:
    """Return the field of an error. Its location is (where, parameter, field, …); an error of the
    body as a whole has no field."""
    loc = [str(part) for part in error["loc"]]
    if len(loc) > 2:
        return loc[2]
    return loc[-1] if loc and loc[0] in {"query", "path"} else ""


def _sentence(field: str, errors: list[Mapping[str, Any]], body_fields: Sequence[str]) -> str:
    if not field:
        return f"The body must be a JSON object, for example {EXAMPLE}."
    if errors[0]["type"] == "extra_forbidden":
        known = f" Known: {', '.join(body_fields)}." if errors[0]["loc"][0] == "body" else ""
        return f"There is no field {field!r}.{known}"
    wanted = [_TYPES[e["type"]] for e in errors if e["type"] in _TYPES]
    if wanted:
        return f"Field {field!r} must be {' or '.join(dict.fromkeys(wanted))}."
    text = str(errors[0]["msg"])
    return f"Field {field!r}: {text[:1].lower()}{text[1:]}."


def render(request: HttpRequest, problem: Problem) -> HttpResponse:
    """Return the response. `instance` is the switch if there is one, else the request's path."""
    event = problem.members.get("event")
    document = ProblemDocument(
        type=f"urn:switchboard:problem:{problem.code}",
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        instance=event.url if event else request.path,
        **problem.members,
    )
    content = document.model_dump_json(exclude_unset=True)
    response = HttpResponse(content, status=problem.status, content_type=MEDIA_TYPE)
    if problem.status == 503:
        response["Retry-After"] = str(RETRY_AFTER_S)
    if problem.status == 401:
        # RFC 9110 requires a challenge with every 401. This one opens no password dialog in
        # browsers.
        response["WWW-Authenticate"] = 'Cookie realm="Switchboard", cookie-name=session_id'
    response["Cache-Control"] = "no-store"
    return response
