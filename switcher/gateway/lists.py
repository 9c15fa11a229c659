"""What clients may list: the names by which this host serves, and what the host says of itself.
A key that is bound to profiles sees no more than it gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from switcher.domain.observed import full_name
from switcher.gateway import answers
from switcher.gateway.answers import GatewayError, Headers, Send
from switcher.gateway.body import ParsedRequest
from switcher.gateway.endpoints import ONE_MODEL, SHOW, Shape
from switcher.gateway.model_selection import choose, served
from switcher.gateway.streaming import JSON
from switcher.ollama import relay
from switcher.ollama.errors import OllamaError
from switcher.queries.gates import Route
from switcher.queries.keys import KeyFacts

LIST_S = 10.0  # what a host only has to look up


async def answer(route: Route, path: str, send: Send, key: KeyFacts | None = None) -> None:
    """One of the lists, in the shape of its address. Raises Refusal."""
    names = served(route, key)
    if path == "/v1/models":
        data = [_model(route, name) for name, _ in names]
        body: dict[str, Any] = {"object": "list", "data": data}
    elif path.startswith(ONE_MODEL):
        named = path.removeprefix(ONE_MODEL)
        if full_name(named) not in {full_name(name) for name, _ in names}:
            raise GatewayError(
                404, "model_not_found", f"There is no model {named!r} here.", "model"
            )
        body = _model(route, named)
    elif path == "/api/tags":
        body = {"models": await _tags(route, names)}
    elif path == "/api/ps" and key is not None and not key.all_profiles:
        body = {"models": await _loaded(route, names)}
    else:
        await _as_it_is(route, path, send)
        return
    await answers.whole(send, 200, JSON, answers.dump(body))


async def show(
    route: Route, wanted: ParsedRequest, send: Send, key: KeyFacts | None = None
) -> None:
    """`/api/show` of the model that the client would get."""
    choice = choose(route, wanted.values.get("model") or wanted.values.get("name"), key)
    headers = [("x-switchboard-model", choice.model)]
    await _relay(route, "POST", SHOW, wanted.for_model(choice.model), send, headers)


async def _tags(route: Route, names: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The host's own rows of what it serves here, under the names that clients may use."""
    by_name = await _rows(route, "/api/tags")
    found = [(full_name(name), by_name.get(full_name(tag))) for name, tag in names]
    return [row | {"name": name, "model": name} for name, row in found if row is not None]


async def _loaded(route: Route, names: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The host's own rows of these models, as far as they are loaded under their own name."""
    tags = {full_name(tag) for _, tag in names}
    return [row for name, row in (await _rows(route, "/api/ps")).items() if name in tags]


async def _rows(route: Route, path: str) -> dict[str, dict[str, Any]]:
    """The host's own rows by name. Raises Refusal."""
    whole, _ = await _looked_up(route, "GET", path, b"")
    try:
        return {row["name"]: row for row in json.loads(whole)["models"]}
    except (ValueError, KeyError, TypeError) as exc:
        raise GatewayError(
            502, "upstream_failed", f"{route.host} answers, but not as Ollama."
        ) from exc


async def _as_it_is(route: Route, path: str, send: Send) -> None:
    await _relay(route, "GET", path, b"", send)


async def _relay(
    route: Route, method: str, path: str, body: bytes, send: Send, headers: Headers = ()
) -> None:
    whole, up = await _looked_up(route, method, path, body)
    await answers.whole(send, up.status, up.content_type, whole, headers)


async def _looked_up(
    route: Route, method: str, path: str, body: bytes
) -> tuple[bytes, relay.Upstream]:
    """What the host answers in LIST_S. Raises Refusal."""
    try:
        async with asyncio.timeout(LIST_S), relay.ask(route.base_url, method, path, body) as up:
            return await up.whole(), up
    except TimeoutError as exc:
        text = f"{route.host} did not answer for {LIST_S:.0f} s."
        raise GatewayError(504, "upstream_timed_out", text) from exc
    except OllamaError as exc:
        raise GatewayError(502, "upstream_failed", f"{route.host}: {exc.text}") from exc


async def manage(
    route: Route, method: str, path: str, body: AsyncIterator[bytes], send: Send
) -> None:
    """A call that changes the host: its body goes through as it comes, as does what it answers."""
    begun = False
    try:
        async with relay.ask(route.base_url, method, path, body) as up:
            await answers.start(send, up.status, up.content_type)
            begun = True
            async for part in up.parts():
                await answers.part(send, part)
    except OllamaError as exc:
        if not begun:
            raise GatewayError(502, "upstream_failed", f"{route.host}: {exc.text}") from exc
        lost = answers.error(Shape.OLLAMA, 502, "upstream_failed", exc.text)
        await answers.part(send, b"\n" + answers.dump(lost) + b"\n")
    await answers.part(send, b"", more=False)


def _model(route: Route, name: str) -> dict[str, Any]:
    since = route.active.since if route.active else None
    created = int(since.timestamp()) if since else 0
    return {"id": name, "object": "model", "created": created, "owned_by": "library"}
