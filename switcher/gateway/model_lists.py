"""Lists of models under the names that clients may use, and what the host says about itself.

A key that is bound to profiles sees only their models.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.gateway.body import ParsedRequest
from switcher.gateway.endpoints import ONE_MODEL_PREFIX, SHOW_PATH
from switcher.gateway.errors import GatewayError, Headers, not_on_host
from switcher.gateway.model_selection import select_model, served_names
from switcher.gateway.response import JSON_TYPE, ResponseWriter, to_json
from switcher.ollama import relay
from switcher.ollama.errors import OllamaError
from switcher.queries.gates import Route
from switcher.queries.keys import KeyFacts

LIST_TIMEOUT_S = 10.0  # for requests that need no model


async def send_list(
    route: Route, path: str, response: ResponseWriter, key: KeyFacts | None
) -> None:
    """Answer one of LIST_PATHS or the address of one model. Raises GatewayError."""
    names = served_names(route, key)
    if path == "/v1/models":
        body: dict[str, Any] = {"object": "list", "data": [_model(route, n) for n, _ in names]}
    elif path.startswith(ONE_MODEL_PREFIX):
        name = path.removeprefix(ONE_MODEL_PREFIX)
        if ModelName.of_request(name) not in {ModelName.parse(served) for served, _ in names}:
            text = f"There is no model {name!r} here."
            raise GatewayError(404, "model_not_found", text, "model")
        body = _model(route, name)
    elif path == "/api/tags":
        body = {"models": await _installed(route, names)}
    elif path == "/api/ps" and key is not None and not key.all_profiles:
        body = {"models": await _resident(route, names)}
    else:
        await _relay(route, "GET", path, b"", response)
        return
    await response.send_whole(200, to_json(body))


async def send_show(
    route: Route, body: ParsedRequest, response: ResponseWriter, key: KeyFacts | None
) -> None:
    """Answer `/api/show` for the model that the client would get. Raises GatewayError."""
    choice = select_model(route, body.values.get("model") or body.values.get("name"), key)
    headers = [("x-switchboard-model", choice.model)]
    await _relay(route, "POST", SHOW_PATH, body.for_model(choice.model), response, headers)


async def _installed(route: Route, names: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the host's rows of the served models, under the names that clients may use."""
    rows = await host_rows(route, "/api/tags")
    found = [(ModelName.parse(name).full, rows.get(ModelName.parse(tag))) for name, tag in names]
    return [row | {"name": name, "model": name} for name, row in found if row is not None]


async def _resident(route: Route, names: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the host's rows of the served models that are loaded under their own name."""
    tags = {ModelName.parse(tag) for _, tag in names}
    return [row for name, row in (await host_rows(route, "/api/ps")).items() if name in tags]


async def host_rows(route: Route, path: str) -> dict[ModelName, dict[str, Any]]:
    """Return the rows of one of the host's lists by name. Raises GatewayError 502 or 504."""
    body, _ = await ask_host(route, "GET", path, b"")
    try:
        return {ModelName.parse(row["name"]): row for row in json.loads(body)["models"]}
    except (ValueError, KeyError, TypeError) as exc:
        text = f"{route.host} answers, but not as Ollama."
        raise GatewayError(502, "upstream_failed", text) from exc


async def _relay(
    route: Route,
    method: str,
    path: str,
    payload: bytes,
    response: ResponseWriter,
    headers: Headers = (),
) -> None:
    body, upstream = await ask_host(route, method, path, payload)
    if upstream.status == 404 and upstream.media_type != JSON_TYPE:
        raise not_on_host(route.host, path)
    await response.send_whole(upstream.status, body, headers, upstream.content_type)


async def ask_host(
    route: Route, method: str, path: str, payload: bytes
) -> tuple[bytes, relay.Upstream]:
    """Return what the host answers within LIST_TIMEOUT_S. Raises GatewayError 502 or 504."""
    try:
        async with (
            asyncio.timeout(LIST_TIMEOUT_S),
            relay.ask(route.base_url, method, path, payload) as upstream,
        ):
            return await upstream.read(), upstream
    except TimeoutError as exc:
        text = f"{route.host} did not answer for {LIST_TIMEOUT_S:.0f} s."
        raise GatewayError(504, "upstream_timed_out", text) from exc
    except OllamaError as exc:
        raise GatewayError(502, "upstream_failed", f"{route.host}: {exc.text}") from exc


def _model(route: Route, name: str) -> dict[str, Any]:
    since = route.active.since if route.active else None
    created = int(since.timestamp()) if since else 0
    return {"id": name, "object": "model", "created": created, "owned_by": "library"}
