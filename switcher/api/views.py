"""The control API: parse, call one service or query, answer."""

from __future__ import annotations

import json
import logging
from typing import Any, cast
from urllib.parse import urlencode

from django.core.exceptions import RequestDataTooBig
from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI, Query
from ninja.errors import HttpError, ValidationError
from pydantic import BaseModel

from switcher.api import problems, schemas
from switcher.api.auth import actor_of, operator, viewer
from switcher.api.problems import Problem
from switcher.api.sentences import explain
from switcher.concurrency.threads import in_host_thread, in_thread
from switcher.domain.errors import BadRequest, NotFound, SwitcherError
from switcher.domain.states import State
from switcher.queries import switches as queries
from switcher.queries.drifts import open_drifts
from switcher.queries.hosts import HostSettings, host, hosts
from switcher.queries.readings import by_model_names, last_reading
from switcher.queries.switches import Filters, SwitchDetail
from switcher.records import Actor
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.waiting import is_ending, news_of
from switcher.watching.loop import check_now

log = logging.getLogger(__name__)

PROBLEM = schemas.ProblemDocument

api = NinjaAPI(
    title="Switchboard",
    version="1",
    description="Switch the model that an Ollama server really holds, and see what it holds.",
    urls_namespace="api",
    openapi_url=None,
    docs_url=None,
)


def _header(name: str, text: str) -> dict[str, Any]:
    return {"in": "header", "name": name, "description": text, "schema": {"type": "string"}}


def answer(body: dict[str, Any], status: int = 200) -> HttpResponse:
    content = json.dumps(body, cls=DjangoJSONEncoder, ensure_ascii=False)
    response = HttpResponse(content, status=status, content_type="application/json")
    response["Cache-Control"] = "no-store"
    return response


@api.post(
    "/ollama/models/switch",
    auth=operator,
    response={
        200: schemas.Done | schemas.Planned,
        202: schemas.Accepted,
        (400, 401, 403, 404, 409, 422, 502, 503, 504): PROBLEM,
    },
    summary="Switch the active model",
    openapi_extra={
        "parameters": [
            _header("Idempotency-Key", "The same key gets the same switch again."),
            _header("Prefer", "`respond-async`: 202 at once, with an address to poll."),
        ]
    },
)
async def switch(request: HttpRequest, wanted: schemas.SwitchBody) -> HttpResponse:
    """Load the model, verify it on the host, make it the active one, unload the old one.

    Answers when it is over; `wait: false` or `Prefer: respond-async` answer at once. The switch
    belongs to the server: it goes on whatever becomes of this request. A server that is stopped
    meanwhile answers 202, and the next one brings the switch to its end. With an `Idempotency-Key`
    the same request gets the same switch again.
    """
    wish = wanted.wish()
    actor = actor_of(request, cast(Any, request).auth)
    key = request.headers.get("Idempotency-Key", "").strip()
    try:
        if wanted.dry_run:
            return answer(schemas.planned_json(await in_host_thread(_plan, wish)))
        row = await in_thread(_ask, wish, actor, key)
    except SwitcherError as exc:
        raise problems.from_error(exc, await in_thread(_host_or_none, wish.host)) from exc
    if not _waits(request, wanted):
        return await _outcome(row) if row.ended else _accepted(row, asked=True)
    row = await _until_ended(row)
    return await _outcome(row) if row.ended else _accepted(row)


@api.get(
    "/ollama/models",
    auth=viewer,
    response={200: schemas.Models, (401, 403, 404, 422): PROBLEM},
    summary="What a host is to serve, holds and has",
)
async def models(request: HttpRequest, query: Query[schemas.ModelsQuery]) -> HttpResponse:
    """Read freshly from the host. Where it does not answer, `error` says so, and the rest is what
    it held when it last did, at `observed_at`."""
    check_names(request, schemas.ModelsQuery)
    return answer(await in_host_thread(_models, query.host))


@api.delete(
    "/ollama/models/resident/{digest}",
    auth=operator,
    response={200: schemas.FreedModel, (401, 403, 404, 409, 422, 502, 503, 504): PROBLEM},
    summary="Free a ghost",
)
async def free(
    request: HttpRequest, digest: str, query: Query[schemas.ModelsQuery]
) -> HttpResponse:
    """Unload a resident model that its own name does not reach any more, or whose time is over.

    By 12 digits of its digest or more. Answers when it is gone. 409 says why not: it is no ghost,
    it is busy, no name reaches it (then what remains), or something else is at work on the host.
    """
    check_names(request, schemas.ModelsQuery)
    actor = actor_of(request, cast(Any, request).auth)
    return answer(await in_host_thread(_free, query.host, digest, actor))


@api.get(
    "/ollama/switches",
    auth=viewer,
    response={200: schemas.SwitchList, (401, 403, 422): PROBLEM},
    summary="Switches, newest first",
)
async def switches(request: HttpRequest, query: Query[schemas.SwitchesQuery]) -> HttpResponse:
    """One page. `next` holds the address of the one that follows, or null."""
    check_names(request, schemas.SwitchesQuery)
    rows = await in_thread(
        queries.switches,
        Filters(host=query.host, states=tuple(query.state)),
        query.limit + 1,
        query.before,
    )
    page = rows[: query.limit]
    more = len(rows) > query.limit
    return answer(
        {
            "switches": [schemas.switch_json(row) for row in page],
            "next": _next_page(request, page[-1].id) if more else None,
        }
    )


@api.get(
    "/ollama/switches/{int:switch_id}",
    auth=viewer,
    response={200: dict[str, Any], (401, 403, 404): PROBLEM},
    summary="One switch",
)
async def switch_detail(request: HttpRequest, switch_id: int) -> HttpResponse:
    """Its phases, its plan, what was resident before and after, its outcome."""
    return answer(schemas.switch_detail_json(await in_thread(queries.switch_detail, switch_id)))


@api.delete(
    "/ollama/switches/{int:switch_id}",
    auth=operator,
    response={202: dict[str, Any], (401, 403, 404, 409): PROBLEM},
    summary="Cancel a switch",
)
async def cancel(request: HttpRequest, switch_id: int) -> HttpResponse:
    """Ask for it: the worker stops at the next safe point and restores what was there before."""
    actor = actor_of(request, cast(Any, request).auth)
    row = await in_thread(_cancel, switch_id, actor)
    response = answer(schemas.switch_detail_json(row), 202)
    response["Location"] = schemas.event_json(row.id)["url"]
    return response


# In threads: short calls that read and write rows.


def _plan(wish: SwitchRequest) -> Any:
    plan = service.plan(wish)
    if not plan.digest:
        raise Problem("no-such-model", 404, plan.blocked, {"host": plan.host})
    return plan


def _ask(wish: SwitchRequest, actor: Actor, key: str) -> SwitchDetail:
    row, _ = service.request_switch(wish, actor, idempotency_key=key)
    return queries.switch_detail(row.pk)


def _cancel(switch_id: int, actor: Actor) -> SwitchDetail:
    service.cancel(switch_id, actor)
    return queries.switch_detail(switch_id)


def _models(name: str) -> dict[str, Any]:
    found = host(name)
    seen = by_model_names(found.id, check_now(found.id, found.base_url))
    last = last_reading(found.id)
    known = by_model_names(found.id, last) if last else None
    return schemas.models_json(found, seen, known, open_drifts(found.id))


def _free(name: str, digest: str, actor: Actor) -> dict[str, Any]:
    found = host(name)
    freed = service.free_ghost(found.name, digest, actor)
    check_now(found.id, found.base_url)  # for who looks at the host
    return schemas.freed_json(freed)


def _host_or_none(name: str) -> HostSettings | None:
    try:
        return host(name)
    except NotFound:
        return None


async def _until_ended(row: SwitchDetail) -> SwitchDetail:
    """Wait for its end, or until this server ends and leaves the switch to the next one. Whoever
    waited and went away has waited; the switch does not notice."""
    with news_of(row.host) as news:
        while True:
            news.expect()
            row = await in_thread(queries.switch_detail, row.id)
            if row.ended or is_ending():
                return row
            await news.wait()


async def _outcome(row: SwitchDetail) -> HttpResponse:
    if row.state is State.ACTIVE:
        return answer(schemas.done_json(row))
    raise problems.from_switch(row, await in_thread(_host_of, row))


def _host_of(row: SwitchDetail) -> HostSettings | None:
    return next((h for h in hosts() if h.id == row.host_id), None)


def _accepted(row: SwitchDetail, asked: bool = False) -> HttpResponse:
    """It runs by itself: where to ask how it goes. `asked`: the client did not want to wait."""
    response = answer(schemas.accepted_json(row), 202)
    response["Location"] = schemas.event_json(row.id)["url"]
    if asked:
        response["Preference-Applied"] = "respond-async"
    return response


def _waits(request: HttpRequest, wanted: schemas.SwitchBody) -> bool:
    """The body's own word goes before the header's, which is a preference (RFC 7240)."""
    if wanted.wait is not None:
        return wanted.wait
    preferred = request.headers.get("Prefer", "").lower().split(",")
    return "respond-async" not in {p.split(";")[0].strip() for p in preferred}


def check_names(request: HttpRequest, query: type[BaseModel]) -> None:
    """Ninja leaves out what it does not know; a misspelt filter would then seem to match all."""
    unknown = next((name for name in request.GET if name not in query.model_fields), None)
    if unknown is not None:
        known = ", ".join(query.model_fields)
        raise BadRequest(f"There is no filter {unknown!r}. Known: {known}.", unknown)


def _next_page(request: HttpRequest, last: int) -> str:
    query = request.GET.copy()
    query["before"] = str(last)
    pairs = [(name, value) for name, values in query.lists() for value in values]
    return f"{request.path}?{urlencode(pairs)}"


# What was raised on the way, as problem documents.


@api.exception_handler(Problem)
def _on_problem(request: HttpRequest, exc: Problem) -> HttpResponse:
    return problems.render(request, exc)


@api.exception_handler(SwitcherError)
def _on_error(request: HttpRequest, exc: SwitcherError) -> HttpResponse:
    return problems.render(request, problems.from_error(exc))


@api.exception_handler(ValidationError)
def _on_invalid(request: HttpRequest, exc: ValidationError) -> HttpResponse:
    errors = explain(exc.errors, tuple(schemas.SwitchBody.model_fields))
    detail = " ".join(e["message"] for e in errors)
    return problems.render(request, Problem("bad-request", 422, detail, {"errors": errors}))


@api.exception_handler(HttpError)
def _on_http_error(request: HttpRequest, exc: HttpError) -> HttpResponse:
    if exc.status_code == 400:
        text = 'The body is not JSON. Send for example {"model": "qwen2.5:14b"}.'
        return problems.render(request, Problem("bad-json", 400, text))
    return problems.render(request, Problem("error", exc.status_code, str(exc)))


@api.exception_handler(Exception)
def _on_any(request: HttpRequest, exc: Exception) -> HttpResponse:
    log.error("the API failed on %s", request.path, exc_info=exc, extra={"action": "api-failed"})
    return problems.render(request, Problem("internal", 500, problems.INTERNAL))


@api.exception_handler(RequestDataTooBig)
def _on_too_big(request: HttpRequest, exc: RequestDataTooBig) -> HttpResponse:
    return problems.render(request, Problem("too-large", 413, "The body is too large."))
