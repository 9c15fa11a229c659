"""Finds the route of a request, and holds the request while the host's gate is closed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakKeyDictionary

from switcher.domain import inflight
from switcher.gateway import route_cache
from switcher.gateway.errors import GatewayError
from switcher.gateway.proxy_request import ProxyRequest
from switcher.gateway.route_cache import RoutesUnavailable
from switcher.queries.gates import UNKNOWN_GATE, Route, Routes
from switcher.queries.keys import KeyFacts
from switcher.switching.waiting import is_shutting_down

GATE_TIMEOUT_S = 300.0  # a large model takes minutes to load
# On answers that were forwarded on the last routes known before an outage of the database.
STALE_HEADER = ("x-switchboard-routes", "stale")
MAX_HELD = 200  # requests of one host
MAX_HELD_BYTES = 200_000_000  # bytes of all held requests together


class RoutePermit:
    """Permission to send one request to the host of its route (relay.SendPermit)."""

    def __init__(self, route: Route, request: inflight.InFlightRequest) -> None:
        self.route = route
        self._request = request

    def is_valid(self) -> bool:
        """Return whether the route is still the one that was permitted."""
        return route_cache.current().is_fresh(self.route)

    def mark_sent(self) -> None:
        """Record that the host has the request."""
        self._request.mark_sent()


@asynccontextmanager
async def pass_gate(request: ProxyRequest) -> AsyncIterator[RoutePermit]:
    """Wait until the gate is open, then count the request as in flight while the block lasts.

    Raises GatewayError, 503 after GATE_TIMEOUT_S.
    """
    began = asyncio.get_running_loop().time()
    usage = request.usage
    route = await find_route(request.host, usage.key)
    usage.host = route.host
    if route.gate:
        try:
            with _held_requests().hold(route, request.body.size):
                route = await _wait_for_gate(route, began + GATE_TIMEOUT_S)
        finally:  # a wait that fails counts too
            usage.waited_s += asyncio.get_running_loop().time() - began
    # Nothing may be awaited between checking the gate and counting (route_cache, point 4).
    with inflight.count(route.host_id) as counted:
        yield RoutePermit(route, counted)


async def find_route(host: str, key: KeyFacts | None = None) -> Route:
    """Return a host's route, with its gate open or closed. Raises GatewayError.

    Without a name, this is the key's only host, or else the default host.
    """
    routes = await fresh_routes()
    if not host and key is not None:
        host = key.only_host
    route = routes.find(host)
    if route is None and host:
        raise GatewayError(404, "host_not_found", f"There is no host named {host!r}.", "host")
    if route is None:
        raise GatewayError(503, "no_host", "There is no host yet. Add one first.")
    if key is not None and not key.is_for_host(route.host):
        raise GatewayError(
            403, "not_allowed", f"Key {key.name} is not valid for {route.host}.", "host"
        )
    return route


async def fresh_routes(as_of_now: bool = False) -> Routes:
    """Return the cached routes; with `as_of_now`, routes that were read after this call. Raises
    GatewayError 503."""
    cache = route_cache.current()
    try:
        return await (cache.routes_as_of_now() if as_of_now else cache.routes())
    except RoutesUnavailable as exc:
        raise no_database(str(exc)) from None


def no_database(reason: str) -> GatewayError:
    """Return the error for a request that needs the database during an outage."""
    text = f"Switchboard's database cannot be used now: {reason or 'it does not answer'}."
    return GatewayError(503, "no_database", text, headers=[("retry-after", "5")])


async def _wait_for_gate(route: Route, until: float) -> Route:
    now = asyncio.get_running_loop().time()
    while route.gate:
        if is_shutting_down():
            text = f"{route.host} is switching models, and Switchboard is stopping. Try again."
            raise _switching(text)
        if route.gate == UNKNOWN_GATE:
            until = min(until, now + route_cache.REFRESH_TIMEOUT_S)
        try:
            async with asyncio.timeout_at(until):
                await route_cache.current().next_change()
        except TimeoutError:
            if route.gate == UNKNOWN_GATE:
                text = f"and a switch may be under way on {route.host}"
                raise no_database(f"{route_cache.current().trouble}, {text}") from None
            text = f"{route.host} is still switching models after {GATE_TIMEOUT_S:.0f} s."
            raise _switching(text) from None
        route = await find_route(route.host)
    return route


class _HeldRequests:
    """A counter of the requests that wait at the gates of one event loop."""

    def __init__(self) -> None:
        self.count_by_host = Counter[int]()
        self._bytes = 0

    @contextmanager
    def hold(self, route: Route, size: int) -> Iterator[None]:
        """Count a request of `size` bytes while the block lasts. Raises GatewayError if full."""
        if self.count_by_host[route.host_id] >= MAX_HELD:
            raise _switching(f"{route.host} is switching models, and {MAX_HELD} requests wait.")
        if self._bytes + size > MAX_HELD_BYTES:
            megabytes = self._bytes // 10**6
            text = f"{route.host} is switching models, and requests of {megabytes} MB wait."
            raise _switching(text)
        self.count_by_host[route.host_id] += 1
        self._bytes += size
        try:
            yield
        finally:
            self.count_by_host[route.host_id] -= 1
            self._bytes -= size


_held: WeakKeyDictionary[asyncio.AbstractEventLoop, _HeldRequests] = WeakKeyDictionary()


def _held_requests() -> _HeldRequests:
    return _held.setdefault(asyncio.get_running_loop(), _HeldRequests())


def held(host_id: int) -> int:
    """Return how many requests wait for this host on the running event loop."""
    return _held_requests().count_by_host[host_id]


def _switching(text: str) -> GatewayError:
    return GatewayError(503, "switching", text, headers=[("retry-after", "10")])
