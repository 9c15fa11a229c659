"""Selects a model that can do what a request needs, such as embed while a chat model is active.

If the active model cannot, a pinned one answers. What a model can do is asked of its host, as its
lists and its database rows may be older than the model.
"""

from __future__ import annotations

import asyncio
import json
from weakref import WeakKeyDictionary

from switcher.domain.model_names import ModelName
from switcher.domain.servers import Server
from switcher.gateway.errors import GatewayError
from switcher.gateway.host_calls import ask_host, host_rows
from switcher.gateway.model_selection import select_model
from switcher.gateway.response import to_json
from switcher.queries.gates import ModelChoice, Route
from switcher.queries.keys import KeyFacts

VALID_S = 60.0
MAX_KNOWN = 1000  # models whose capabilities are remembered
_VERBS = {"embedding": "embed", "audio": "transcribe audio", "image": "make images"}
_Known = dict[tuple[Server, str], tuple[float, frozenset[str]]]
_known: WeakKeyDictionary[asyncio.AbstractEventLoop, _Known] = WeakKeyDictionary()


async def select_capable(
    route: Route, requested: object, key: KeyFacts | None, needs: str
) -> ModelChoice:
    """Return the model for a request that needs this capability; any model will do if empty.

    A name that the policy gives a meaning is left alone. Raises as `select_model`.
    """
    name = ModelName.of_request(requested if isinstance(requested, str) else "")
    is_alias = route.policy != "active" and name in route.names
    if needs and route.pinned and route.policy != "strict" and not is_alias:
        choice = await _pinned_choice(route, name, key, needs)
        if choice is not None:
            return choice
    return select_model(route, requested, key)


async def _pinned_choice(
    route: Route, name: ModelName, key: KeyFacts | None, needs: str
) -> ModelChoice | None:
    """Return the pinned model to use; None if the active one can do it, or no pinned one can."""
    if route.active_choice is not None:
        active = await _capabilities(route, route.active_choice)
        if needs in active or not active:
            return None
    for spec in sorted(route.pinned, key=lambda spec: spec.name != name):
        if key is not None and not key.is_for_profile(spec.profile):
            continue
        choice = route.choose_other(spec)
        if needs in await _capabilities(route, choice):
            return choice
    return None


async def _capabilities(route: Route, choice: ModelChoice) -> frozenset[str]:
    """Return what a model can do; empty if the host does not say."""
    loop, name = asyncio.get_running_loop(), choice.copy or choice.model
    known = _known.setdefault(loop, {})
    found = known.get((route.server, name))
    if found is None or loop.time() >= found[0]:
        if len(known) >= MAX_KNOWN:
            known.clear()
        found = loop.time() + VALID_S, await _ask_capabilities(route, name)
        known[route.server, name] = found
    return found[1]


async def _ask_capabilities(route: Route, name: str) -> frozenset[str]:
    try:
        body, _ = await ask_host(route, "POST", "/api/show", to_json({"model": name}))
        return frozenset(json.loads(body)["capabilities"])
    except (GatewayError, ValueError, KeyError, TypeError):
        return frozenset()


async def cannot(route: Route, choice: ModelChoice, needs: str) -> GatewayError:
    """Return the error for a model that cannot do what the request needs: what to pin."""
    try:
        rows = (await host_rows(route, "/api/tags")).items()
        able = [name.short for name, row in rows if needs in (row.get("capabilities") or ())]
    except GatewayError:
        able = []
    advice = f" Installed there: {', '.join(sorted(able))}." if able else ""
    text = (
        f"{choice.model}, which answers on {route.host}, cannot {_VERBS[needs]}. "
        f"Pin the profile of a model that can.{advice}"
    )
    return GatewayError(400, "model_cannot", text, "model")
