"""Where a request goes: to what is active now, and to nowhere while the host's gate is closed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakKeyDictionary

from switcher import traffic
from switcher.gateway.answers import Refusal
from switcher.gateway.table import Stale, Table, table
from switcher.queries.gates import Route

LONGEST_S = 120.0
MOST_WAITING = 200

_waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, Counter[int]] = WeakKeyDictionary()


@asynccontextmanager
async def on_route(name: str) -> AsyncIterator[Route]:
    """The route of this host, or of the default one, counted as under way while the block lasts.

    Where a switch holds the host's requests it waits for the end of that, LONGEST_S at most;
    cancelling gives the place up. Raises Refusal.
    """
    until = asyncio.get_running_loop().time() + LONGEST_S
    routes = table()
    route = await find(routes, name)
    if route.gate:
        with _place(route):
            route = await _released(routes, route, until)
    # Nothing is awaited between the look at the gate and the count (see gateway.table, 4).
    with traffic.entered(route.host_id):
        yield route


async def find(routes: Table, name: str) -> Route:
    """The route now, whether its gate is closed or not. Raises Refusal."""
    try:
        found = (await routes.routes()).find(name)
    except Stale:
        text = "Switchboard's database does not answer."
        raise Refusal(503, "no_database", text, headers=[("retry-after", "5")]) from None
    if found is not None:
        return found
    if name:
        raise Refusal(404, "host_not_found", f"There is no host named {name!r}.", "host")
    raise Refusal(503, "no_host", "There is no host yet. Add one first.")


async def _released(routes: Table, route: Route, until: float) -> Route:
    while route.gate:
        try:
            async with asyncio.timeout_at(until):
                await routes.next_turn()
        except TimeoutError:
            raise _refusal(f"{route.host} still switches after {LONGEST_S:.0f} s.") from None
        route = await find(routes, route.host)
    return route


@contextmanager
def _place(route: Route) -> Iterator[None]:
    """A place among those that wait for a host on this loop. Raises Refusal where all are taken."""
    counts = _here()
    if counts[route.host_id] >= MOST_WAITING:
        raise _refusal(f"{MOST_WAITING} requests wait already while {route.host} switches.")
    counts[route.host_id] += 1
    try:
        yield
    finally:
        counts[route.host_id] -= 1


def waiting(host_id: int) -> int:
    """How many wait for this host on this loop."""
    return _here()[host_id]


def _here() -> Counter[int]:
    return _waiting.setdefault(asyncio.get_running_loop(), Counter())


def _refusal(text: str) -> Refusal:
    return Refusal(503, "switching", text, headers=[("retry-after", "10")])
