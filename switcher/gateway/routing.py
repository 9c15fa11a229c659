"""Where a request goes: to what is active now, and to nowhere while the host's gate is closed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakKeyDictionary

from switcher.domain import inflight
from switcher.gateway.answers import GatewayError
from switcher.gateway.meter import RequestUsage
from switcher.gateway.route_cache import Stale, table
from switcher.queries.gates import Route, Routes
from switcher.queries.keys import KeyFacts
from switcher.switching.waiting import is_ending

# A large model takes minutes to load.
LONGEST_S = 300.0
MAX_WAITING = 200
MAX_WAITING_BYTES = 200_000_000  # of all hosts' bodies together

_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, _Room] = WeakKeyDictionary()


@asynccontextmanager
async def on_route(
    name: str, tally: RequestUsage, size: int = 0
) -> AsyncIterator[tuple[Route, SendPermit]]:
    """The route of this host, or of the default one, counted as under way while the block lasts,
    with what has to be asked before the request is written to the host.

    Where a switch holds the host's requests it waits for the end of that, LONGEST_S at most;
    cancelling gives the place up. `size` is that of its body. Raises Refusal.
    """
    began = asyncio.get_running_loop().time()
    route = await find(name, tally.key)
    tally.host = route.host
    if route.gate:
        try:
            with _room().place(route, size):
                route = await _released(route, began + LONGEST_S)
        finally:  # who waited in vain has waited, too
            tally.waited_s += asyncio.get_running_loop().time() - began
    # Nothing is awaited between the look at the gate and the count (see gateway.table, 4).
    with inflight.entered(route.host_id) as passage:
        yield route, SendPermit(route, passage)


class SendPermit:
    """A request's leave to go to its host (relay.Leave)."""

    def __init__(self, route: Route, passage: inflight.InFlightRequest) -> None:
        self._route, self._passage = route, passage

    def holds(self) -> bool:
        """Whether its route is still as it was when it was let through."""
        return table().holds(self._route)

    def used(self) -> None:
        """It is written."""
        self._passage.sent()


async def find(name: str, key: KeyFacts | None = None) -> Route:
    """The route now, whether its gate is closed or not. Raises Refusal."""
    routes = await fresh_routes()
    if not name and key is not None and not key.all_hosts and len(key.hosts) == 1:
        (name,) = key.hosts  # a key for one host need not name it
    found = routes.find(name)
    if found is None and name:
        raise GatewayError(404, "host_not_found", f"There is no host named {name!r}.", "host")
    if found is None:
        raise GatewayError(503, "no_host", "There is no host yet. Add one first.")
    if key is not None and not key.is_for_host(found.host):
        raise GatewayError(403, "not_allowed", f"Key {key.name} is not for {found.host}.", "host")
    return found


async def fresh_routes(now: bool = False) -> Routes:
    """The table's routes; with `now`, read after this call. Raises Refusal where the database
    does not answer."""
    try:
        return await (table().routes_after_now() if now else table().routes())
    except Stale:
        text = "Switchboard's database does not answer."
        raise GatewayError(503, "no_database", text, headers=[("retry-after", "5")]) from None


async def _released(route: Route, until: float) -> Route:
    while route.gate:
        if is_ending():
            raise _refusal(f"{route.host} switches, and Switchboard is stopped. Try again.")
        try:
            async with asyncio.timeout_at(until):
                await table().next_turn()
        except TimeoutError:
            raise _refusal(f"{route.host} still switches after {LONGEST_S:.0f} s.") from None
        route = await find(route.host)
    return route


class _Room:
    """Those that wait on one loop."""

    def __init__(self) -> None:
        self.counts = Counter[int]()
        self._bytes = 0

    @contextmanager
    def place(self, route: Route, size: int) -> Iterator[None]:
        """A place among them. Raises Refusal where all are taken."""
        if self.counts[route.host_id] >= MAX_WAITING:
            raise _refusal(f"{MAX_WAITING} requests wait already while {route.host} switches.")
        if self._bytes + size > MAX_WAITING_BYTES:
            text = (
                f"Requests of {self._bytes // 10**6} MB wait already while {route.host} switches."
            )
            raise _refusal(text)
        self.counts[route.host_id] += 1
        self._bytes += size
        try:
            yield
        finally:
            self.counts[route.host_id] -= 1
            self._bytes -= size


def waiting(host_id: int) -> int:
    """How many wait for this host on this loop."""
    return _room().counts[host_id]


def _room() -> _Room:
    return _rooms.setdefault(asyncio.get_running_loop(), _Room())


def _refusal(text: str) -> GatewayError:
    return GatewayError(503, "switching", text, headers=[("retry-after", "10")])
