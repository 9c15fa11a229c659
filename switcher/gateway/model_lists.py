"""Lists of models under the names that clients may use, and what the host says about itself.

A key that is bound to profiles sees only their models. Copies of models are shown as the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.gateway.body import ParsedRequest
from switcher.gateway.endpoints import ONE_MODEL_PREFIX, SHOW_PATH, ApiStyle
from switcher.gateway.errors import GatewayError, Headers, not_on_host
from switcher.gateway.host_calls import ask_host, host_rows
from switcher.gateway.model_selection import select_model, served_names
from switcher.gateway.renaming import ModelRenamer
from switcher.gateway.response import JSON_TYPE, ResponseWriter, to_json
from switcher.gateway.verified_names import as_sent, renamer_for
from switcher.ollama.relay import Upstream
from switcher.queries.gates import Route
from switcher.queries.keys import KeyFacts

_UNKNOWN = datetime.fromtimestamp(0, UTC)


async def send_list(
    route: Route, path: str, response: ResponseWriter, key: KeyFacts | None, style: ApiStyle
) -> None:
    """Answer one of LIST_PATHS or the address of one model. Raises GatewayError."""
    names = served_names(route, key)
    if path == "/v1/models":
        body = _list_of([_model(route, name, style) for name, _ in names], style)
    elif path.startswith(ONE_MODEL_PREFIX):
        name = path.removeprefix(ONE_MODEL_PREFIX)
        if ModelName.of_request(name) not in {ModelName.parse(served) for served, _ in names}:
            text = f"There is no model {name!r} here."
            raise GatewayError(404, "model_not_found", text, "model")
        body = _model(route, name, style)
    elif path == "/api/tags":
        body = {"models": await _installed(route, names)}
    elif path == "/api/ps" and key is not None and not key.all_profiles:
        body = {"models": await _resident(route, names)}
    else:
        answer, upstream = await ask_host(route, "GET", path, b"")
        for copy in route.copies.values():
            answer = ModelRenamer(copy.name.full, copy.tag.full).in_part(answer, more=False)
        await _send(route, path, (answer, upstream), response)
        return
    await response.send_whole(200, to_json(body))


async def send_show(
    route: Route, body: ParsedRequest, response: ResponseWriter, key: KeyFacts | None
) -> None:
    """Answer `/api/show` for the model that the client would get. Raises GatewayError."""
    choice = select_model(route, body.values.get("model") or body.values.get("name"), key)
    sent = await as_sent(route, choice)
    answer, upstream = await ask_host(route, "POST", SHOW_PATH, body.for_model(sent.model))
    if upstream.status == 404 and sent.model == choice.copy:
        sent = await as_sent(route, choice, by_copy=False)
        answer, upstream = await ask_host(route, "POST", SHOW_PATH, body.for_model(sent.model))
    renamer = renamer_for(sent, choice)
    if renamer is not None:
        answer = renamer.anywhere(answer)
    headers = [("x-switchboard-model", choice.model)]
    await _send(route, SHOW_PATH, (answer, upstream), response, headers)


async def _installed(route: Route, names: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the host's rows of the served models, under the names that clients may use."""
    rows = await host_rows(route, "/api/tags")
    served = [ModelName.parse(name) for name, _ in names]
    found = [(name.full, _row_of(route, name, rows)) for name in served]
    return [row | {"name": name, "model": name} for name, row in found if row is not None]


def _row_of(
    route: Route, name: ModelName, rows: Mapping[ModelName, dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the row of the content that a request for this name reaches."""
    choice = route.resolve(name)
    if choice is None:
        return None
    own, digest = rows.get(ModelName.parse(choice.model)), choice.digest
    if not digest or (own is not None and own.get("digest") == digest):
        return own
    return next((row for row in rows.values() if row.get("digest") == digest), None)


async def _resident(route: Route, names: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the host's rows of the served models that are loaded."""
    served = {ModelName.parse(tag) for _, tag in names}
    models = {copy.name: copy.tag for copy in route.copies.values()}
    rows = (await host_rows(route, "/api/ps")).items()
    found = [(models.get(name, name), row) for name, row in rows]
    return [row | {"name": n.full, "model": n.full} for n, row in found if n in served]


async def _send(
    route: Route,
    path: str,
    answer: tuple[bytes, Upstream],
    response: ResponseWriter,
    headers: Headers = (),
) -> None:
    body, upstream = answer
    if upstream.status == 404 and upstream.media_type != JSON_TYPE:
        raise not_on_host(route.host, path)
    if not upstream.is_json:
        text = f"{route.host}: {upstream.not_json_error().text}"
        raise GatewayError(502, "upstream_failed", text)
    await response.send_whole(upstream.status, body, headers, upstream.content_type)


def _model(route: Route, name: str, style: ApiStyle) -> dict[str, Any]:
    since = (route.active.since if route.active else None) or _UNKNOWN
    if style is ApiStyle.ANTHROPIC:
        created_at = since.isoformat(timespec="seconds")
        return {"type": "model", "id": name, "display_name": name, "created_at": created_at}
    created = int(since.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "library"}


def _list_of(models: list[dict[str, Any]], style: ApiStyle) -> dict[str, Any]:
    if style is not ApiStyle.ANTHROPIC:
        return {"object": "list", "data": models}
    ids = [model["id"] for model in models] or [None]
    return {"data": models, "first_id": ids[0], "last_id": ids[-1], "has_more": False}
