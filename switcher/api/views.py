"""The operations of the control API: parse, call one service or query, respond."""

from __future__ import annotations

import logging
from typing import Any, cast
from urllib.parse import urlencode

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from ninja import NinjaAPI, Query, Status
from ninja.errors import HttpError, ValidationError
from ninja.renderers import JSONRenderer
from pydantic import BaseModel

from switcher.api import problems, schemas
from switcher.api.auth import actor_of, exporter, key_of, operator, switch_key, viewer
from switcher.api.parameters import (
    ExportQuery,
    ModelsQuery,
    SwitchBody,
    SwitchesQuery,
    UnloadBody,
    UsageQuery,
)
from switcher.api.problems import EXAMPLE, Problem
from switcher.audit.export import begin, content_type, stream
from switcher.audit.filters import read_filters
from switcher.concurrency.threads import in_host_thread, in_thread
from switcher.domain.drift import Kind
from switcher.domain.errors import BadRequest, NotAllowed, NotFound, SwitcherError
from switcher.domain.states import State
from switcher.queries import hosts, keys
from switcher.queries import switches as queries
from switcher.queries.database import outage_of
from switcher.queries.drifts import open_drifts
from switcher.queries.hosts import HostSettings
from switcher.queries.keys import KeyFacts
from switcher.queries.readings import by_model_names, last_reading
from switcher.queries.switches import Filters, SwitchDetail
from switcher.records import Actor
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.waiting import changes_of, is_shutting_down
from switcher.watching.loop import check_now

log = logging.getLogger(__name__)

PROBLEM = schemas.ProblemDocument
EXPORTED = {
    media_type: {"schema": {"type": "string"}}
    for media_type in ("application/x-ndjson", "text/csv")
}


class Renderer(JSONRenderer):
    json_dumps_params = {"ensure_ascii": False}


api = NinjaAPI(
    title="Switchboard",
    version="1",
    description="Switch the model that an Ollama server has loaded, and see what it has loaded.",
    urls_namespace="api",
    openapi_url=None,
    docs_url=None,
    renderer=Renderer(),
)


def _header(name: str, text: str) -> dict[str, Any]:
    return {"in": "header", "name": name, "description": text, "schema": {"type": "string"}}


@api.post(
    "/ollama/models/switch",
    auth=[switch_key, operator],
    response={
        200: schemas.Done | schemas.Planned,
        202: schemas.Accepted,
        (400, 401, 403, 404, 409, 422, 502, 503, 504): PROBLEM,
    },
    exclude_unset=True,
    summary="Switch the active model",
    openapi_extra={
        "parameters": [
            _header("Idempotency-Key", "The same key gets the same switch again."),
            _header("Prefer", "`respond-async`: answer 202 at once, with an address to poll."),
        ]
    },
)
async def switch(request: HttpRequest, body: SwitchBody, response: HttpResponse) -> Any:
    """Load the model, verify it on the host, make it the active one, unload the old one.

    Answers when the switch has ended; `wait: false` or `Prefer: respond-async` answer at once. The
    server continues the switch even if the client disconnects. If the server is stopped meanwhile,
    it answers 202, and the next start completes the switch. With an `Idempotency-Key` the same
    request gets the same switch again.
    """
    wanted, key = body.to_request(), key_of(request)
    idempotency_key = request.headers.get("Idempotency-Key", "").strip()
    try:
        if body.dry_run:
            plan = await in_host_thread(_plan, wanted, key)
            return schemas.Planned(dry_run=True, plan=schemas.Plan(**plan.to_json()))
        row = await in_thread(_request, wanted, actor_of(request), idempotency_key, key)
    except NotAllowed as exc:
        raise problems.from_error(exc) from exc
    except SwitcherError as exc:
        raise problems.from_error(exc, await in_thread(_host_or_none, wanted.host)) from exc
    if _waits(request, body):
        row = await _until_ended(row)
    elif not row.ended:
        response["Preference-Applied"] = "respond-async"
    if row.ended and row.state is not State.ACTIVE:
        raise problems.from_switch(row, await in_thread(_host_of, row))
    return schemas.Done.of(row) if row.ended else _accepted(row, response)


@api.get(
    "/ollama/models",
    auth=viewer,
    response={200: schemas.Models, (401, 403, 404, 422): PROBLEM},
    summary="What is active on a host, loaded, and on its disk",
)
async def models(request: HttpRequest, query: Query[ModelsQuery]) -> Any:
    """Read the host now. If it does not answer, `error` says why, and the rest is what it held when
    it last answered, at `observed_at`.
    """
    _check_names(request, ModelsQuery)
    return await in_host_thread(_models, query.host)


@api.delete(
    "/ollama/models/resident/{digest}",
    auth=operator,
    response={200: schemas.FreedModel, (401, 403, 404, 409, 422, 502, 503, 504): PROBLEM},
    summary="Free a ghost",
)
async def free(request: HttpRequest, digest: str, query: Query[ModelsQuery]) -> Any:
    """Unload a resident model that its own name no longer reaches, or that is overdue.

    It is named by at least 12 digits of its digest. Answers when it is gone. 409 says why it cannot
    be freed: it is not a ghost, it is busy, no name reaches it, or something else is at work on the
    host.
    """
    _check_names(request, ModelsQuery)
    freed = await in_host_thread(_free, query.host, digest, actor_of(request))
    return schemas.FreedModel.model_validate(freed)


@api.post(
    "/ollama/models/unload",
    auth=operator,
    response={200: schemas.Unloaded, (400, 401, 403, 404, 409, 422, 502, 503, 504): PROBLEM},
    summary="Unload the active model without a replacement",
)
async def unload(request: HttpRequest, body: UnloadBody) -> Any:
    """Make no model active, unload the one that was, and answer when it is gone.

    It is not brought back by a repair. `dry_run` returns the plan. 409 if no model is active, or if
    something else is at work on the host.
    """
    plan, is_gone, text = await in_host_thread(_unload, body, actor_of(request))
    return schemas.Unloaded(
        dry_run=body.dry_run, plan=schemas.UnloadPlan(**plan.to_json()), is_gone=is_gone, text=text
    )


@api.get(
    "/ollama/switches",
    auth=viewer,
    response={200: schemas.SwitchList, (401, 403, 422): PROBLEM},
    summary="List switches",
)
async def switches(request: HttpRequest, query: Query[SwitchesQuery]) -> Any:
    """Return one page of switches, newest first. `next` is the address of the next page, or
    null."""
    _check_names(request, SwitchesQuery)
    filters = Filters(host=query.host, states=tuple(query.state))
    rows = await in_thread(queries.switches, filters, query.limit + 1, query.before)
    page = [schemas.SwitchSummary.model_validate(row) for row in rows[: query.limit]]
    more = len(rows) > query.limit
    return schemas.SwitchList(
        switches=page, next=_next_page(request, page[-1].id) if more else None
    )


@api.get(
    "/ollama/switches/{int:switch_id}",
    auth=[switch_key, viewer],
    response={200: schemas.SwitchDetail, (401, 403, 404): PROBLEM},
    summary="One switch",
)
async def switch_detail(request: HttpRequest, switch_id: int) -> Any:
    """Return a switch's phases, plan, loaded models before and after, and how it ended."""
    row, key = await in_thread(queries.switch_detail, switch_id), key_of(request)
    if key is not None and not key.is_for_host(row.host):
        raise NotAllowed(f"Key {key.name} is not valid for the host of this switch.")
    return schemas.SwitchDetail.model_validate(row)


@api.delete(
    "/ollama/switches/{int:switch_id}",
    auth=operator,
    response={202: schemas.SwitchDetail, (401, 403, 404, 409): PROBLEM},
    summary="Cancel a switch",
)
async def cancel(request: HttpRequest, switch_id: int, response: HttpResponse) -> Any:
    """Request cancellation: the worker stops at the next safe point and restores the previous
    models.
    """
    row = await in_thread(_cancel, switch_id, actor_of(request))
    response["Location"] = schemas.switch_url(row.id)
    return Status(202, schemas.SwitchDetail.model_validate(row))


@api.get(
    "/ollama/usage",
    auth=viewer,
    response={200: schemas.UsageList, (401, 403, 422): PROBLEM},
    summary="Usage of the gateway",
)
async def usage(request: HttpRequest, query: Query[UsageQuery]) -> Any:
    """Return requests, errors, waits and tokens by key, host and model, most requests first.

    Only counts are kept, no prompts and no responses. The counts of the last seconds may be
    missing.
    """
    _check_names(request, UsageQuery)
    rows = await in_thread(keys.usage, query.days, query.host, query.key)
    return schemas.UsageList(days=query.days, usage=rows)


@api.get(
    "/audit/export",
    auth=exporter,
    response={200: None, (401, 403, 422): PROBLEM},
    summary="Export the audit trail",
    openapi_extra={"responses": {200: {"content": EXPORTED}}},
)
async def export(request: HttpRequest, query: Query[ExportQuery]) -> HttpResponseBase:
    """Return the trail, or the part of it that the filters select.

    `jsonl` gives lines that switchboard_verify.py checks; `csv` is for people. The export ends at
    the newest checkpoint, and is recorded in the trail itself.
    """
    _check_names(request, ExportQuery)
    filters = read_filters(query.model_dump())
    if request.META["REQUEST_METHOD"] == "HEAD":  # with_fallbacks makes a GET of it
        return HttpResponse(content_type=content_type(query.format))
    job = await in_thread(begin, query.format, filters, actor_of(request))
    return StreamingHttpResponse(stream(job), headers=job.headers)


# In threads: short calls that read and write rows or ask a host.


def _plan(wanted: SwitchRequest, key: KeyFacts | None) -> Any:
    plan = service.plan(wanted, key)
    if not plan.digest:
        raise Problem("no-such-model", plan.blocked, host=plan.host)
    return plan


def _request(
    wanted: SwitchRequest, actor: Actor, idempotency_key: str, key: KeyFacts | None
) -> SwitchDetail:
    row, _ = service.request_switch(wanted, actor, idempotency_key=idempotency_key, key=key)
    return queries.switch_detail(row.pk)


def _cancel(switch_id: int, actor: Actor) -> SwitchDetail:
    service.cancel(switch_id, actor)
    return queries.switch_detail(switch_id)


def _models(name: str) -> schemas.Models:
    host = hosts.host(name)
    seen = by_model_names(host.id, check_now(host.id, host.server))
    last = last_reading(host.id)
    known = by_model_names(host.id, last) if last else None
    drifts = open_drifts(host.id)
    if seen.answered:  # the watcher reads the host only now, and ends this
        drifts = tuple(drift for drift in drifts if drift.kind != Kind.UNREACHABLE)
    return schemas.Models.of(host, seen, known, drifts)


def _free(name: str, digest: str, actor: Actor) -> Any:
    host = hosts.host(name)
    freed = service.free_ghost(host.name, digest, actor)
    check_now(host.id, host.server)  # pages show it at once
    return freed


def _unload(body: UnloadBody, actor: Actor) -> Any:
    host = hosts.host(body.host or "")
    if body.dry_run:
        plan = service.plan_unload(host.name)
        return plan, None, plan.text
    done = service.unload_active(host.name, actor, body.reason or "")
    check_now(host.id, host.server)  # pages show it at once
    return done.plan, done.is_gone, done.text


def _host_or_none(name: str) -> HostSettings | None:
    try:
        return hosts.host(name)
    except NotFound:
        return None


def _host_of(row: SwitchDetail) -> HostSettings | None:
    return next((h for h in hosts.hosts() if h.id == row.host_id), None)


async def _until_ended(row: SwitchDetail) -> SwitchDetail:
    """Wait until the switch has ended, or until this server stops and leaves it to the next one. If
    the client disconnects, only the waiting ends, not the switch."""
    with changes_of(row.host) as changes:
        while True:
            changes.clear()
            row = await in_thread(queries.switch_detail, row.id)
            if row.ended or is_shutting_down():
                return row
            await changes.wait()


def _accepted(row: SwitchDetail, response: HttpResponse) -> Any:
    """Return the address that shows the switch's progress."""
    event = schemas.EventRef.to(row.id)
    response["Location"] = event.url
    accepted = schemas.Accepted(
        accepted=True,
        model=row.model,
        profile=row.profile,
        host=row.host,
        state=row.state,
        event=event,
    )
    return Status(202, accepted)


def _waits(request: HttpRequest, body: SwitchBody) -> bool:
    """Return whether to wait for the end. The body's `wait` takes precedence over the header, which
    is only a preference (RFC 7240).
    """
    if body.wait is not None:
        return body.wait
    preferred = request.headers.get("Prefer", "").lower().split(",")
    return "respond-async" not in {p.split(";")[0].strip() for p in preferred}


def _check_names(request: HttpRequest, query: type[BaseModel]) -> None:
    """Refuse unknown filters, which ninja ignores: a misspelt one would seem to match
    everything.
    """
    unknown = next((name for name in request.GET if name not in query.model_fields), None)
    if unknown is not None:
        known = ", ".join(query.model_fields)
        raise BadRequest(f"There is no filter {unknown!r}. Known: {known}.", unknown)


def _next_page(request: HttpRequest, last: int) -> str:
    query = request.GET.copy()
    query["before"] = str(last)
    pairs = [(name, value) for name, values in query.lists() for value in values]
    return f"{request.path}?{urlencode(pairs)}"


# Errors, as problem documents.


def _to_problem(exc: object) -> Problem | None:
    match exc:
        case Problem():
            return exc
        case SwitcherError():
            return problems.from_error(exc)
        case ValidationError():
            return problems.from_invalid(exc.errors, tuple(SwitchBody.model_fields))
        case RequestDataTooBig():
            return Problem("too-large", "The body is too large.")
        case HttpError(status_code=400):
            return Problem("bad-json", f"The body is not JSON. Send for example {EXAMPLE}.")
        case HttpError():
            return Problem("error", str(exc), exc.status_code)
    return None


def _on_error(request: HttpRequest, exc: Exception | type[Exception]) -> HttpResponse:
    problem = _to_problem(exc)
    outage = outage_of(exc) if problem is None and isinstance(exc, Exception) else ""
    if outage:
        log.warning("%s was refused: %s", request.path, outage, extra={"action": "no-database"})
        problem = problems.no_database(outage)
    if problem is None:
        extra = {"action": "api-failed"}
        log.error("%s failed", request.path, exc_info=cast(Exception, exc), extra=extra)
        problem = Problem("internal", problems.INTERNAL_TEXT)
    return problems.render(request, problem)


for kind in (Problem, SwitcherError, ValidationError, HttpError, RequestDataTooBig, Exception):
    api.add_exception_handler(kind, _on_error)
