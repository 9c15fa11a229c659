"""Finds another model for a key that asks for that, when its model is not loaded anywhere.

A key may list profiles that come next. If the model that a request gets is not loaded on its host,
another host of the key is used that answers with the same model and has it loaded; else the first
of those profiles that is loaded on one of the hosts. If none is, everything is as without a list:
the request goes to its own model, and the host loads that. A client that names a host stays there.

Which models are loaded is asked of the hosts, at most every VALID_S, and only for such keys. The
gate of another host is passed like any other: the request starts again with that host as its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from switcher.domain.model_names import ModelName
from switcher.domain.servers import Server
from switcher.gateway.capable_models import select_capable
from switcher.gateway.errors import GatewayError
from switcher.gateway.host_calls import host_rows
from switcher.gateway.proxy_request import Detour, ProxyRequest
from switcher.gateway.routing import fresh_routes
from switcher.queries.gates import ModelChoice, Route
from switcher.queries.keys import KeyFacts

VALID_S = 2.0
TIMEOUT_S = 2.0  # for a host to say what it has loaded
HEADER = "x-switchboard-fallback"

_Loaded = dict[Server, tuple[float, frozenset[str | ModelName]]]
_loaded: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loaded] = WeakKeyDictionary()


async def choose_model(request: ProxyRequest, route: Route) -> ModelChoice | None:
    """Return the model that answers; None if the request now names another host for that.

    Raises GatewayError as `select_model`.
    """
    key, detour = request.usage.key, request.detour
    if detour is not None and detour.spec is not None:
        return route.choose(detour.spec)
    if detour is not None or key is None or not key.fallback or request.endpoint.needs:
        return await _select(request, route)  # what a profile's model can do is not known
    try:
        choice = await _select(request, route)
    except GatewayError as exc:
        if exc.code != "no_active_model":
            raise
        detour = await _find_detour(request, route, None, key)
        if detour is None:
            raise
    else:
        if await _is_loaded(route, choice):
            return choice
        detour = await _find_detour(request, route, choice, key)
        if detour is None:
            return choice
    return _take(detour, request, route)


def _take(detour: Detour, request: ProxyRequest, route: Route) -> ModelChoice | None:
    request.detour = detour
    if detour.spec is not None:
        request.usage.fell_back = True
        request.response.add_header((HEADER, detour.wanted))
        if detour.host == route.host:
            return route.choose(detour.spec)
    request.host = detour.host
    return None


async def _select(request: ProxyRequest, route: Route) -> ModelChoice:
    asked, needs = request.body.values.get("model"), request.endpoint.needs
    return await select_capable(route, asked, request.usage.key, needs)


async def _find_detour(
    request: ProxyRequest, route: Route, choice: ModelChoice | None, key: KeyFacts
) -> Detour | None:
    """Return where to send a request whose model is not loaded; None to leave it as it is."""
    routes = await fresh_routes()
    others: Sequence[Route] = ()
    if not request.host:  # those that are switching would make it wait
        usable = (r for r in routes.by_name.values() if key.is_for_host(r.host) and not r.gate)
        others = [other for other in usable if other.host != route.host]
    if choice is not None:
        asked = request.body.values.get("model")
        name = ModelName.of_request(asked if isinstance(asked, str) else "")
        for other in others:
            same = other.resolve(name)
            if same is None or same.spec.name != choice.spec.name:
                continue
            if key.is_for_profile(same.spec.profile) and await _is_loaded(other, same):
                return Detour(other.host)
    wanted = choice.model if choice is not None else "no active model"
    for profile in key.fallback:
        spec = routes.fallbacks.get(profile)
        if spec is None or not key.is_for_profile(profile):
            continue  # it was deleted, and perhaps made again
        for other in (route, *others):
            if await _is_loaded(other, other.choose(spec)):
                return Detour(other.host, wanted, spec)
    return None


async def _is_loaded(route: Route, choice: ModelChoice) -> bool:
    loop = asyncio.get_running_loop()
    known = _loaded.setdefault(loop, {})
    found = known.get(route.server)
    if found is None or loop.time() >= found[0]:
        found = loop.time() + VALID_S, await _ask_loaded(route)
        known[route.server] = found
    return (choice.digest or choice.spec.name) in found[1]


async def _ask_loaded(route: Route) -> frozenset[str | ModelName]:
    """Return the digests and names of what a host has loaded; nothing if it does not say."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            rows = await host_rows(route, "/api/ps")
    except (GatewayError, TimeoutError):
        return frozenset()
    return frozenset({*rows, *(str(row.get("digest")) for row in rows.values())})
