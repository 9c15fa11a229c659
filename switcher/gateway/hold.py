"""Requests that wait while a swap leaves the host without a model.

However many wait, one task a host looks at the rows for all of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from switcher.gateway.answers import Refusal
from switcher.queries.api import Route, route
from switcher.switching.waiting import in_thread, is_ending, news_of

LONGEST_S = 120.0
MOST_WAITING = 200


@dataclass(slots=True)
class _Holds:
    """Who waits on one event loop, by host id, and the task that looks for them."""

    waiting: Counter[int] = field(default_factory=Counter)
    looking: dict[int, asyncio.Task[None]] = field(default_factory=dict)


_holds: WeakKeyDictionary[asyncio.AbstractEventLoop, _Holds] = WeakKeyDictionary()


def _here() -> _Holds:
    return _holds.setdefault(asyncio.get_running_loop(), _Holds())


async def until_released(held: Route, seconds: float) -> None:
    """Wait for the end of the hold, `seconds` at most; cancelling gives the place up.

    Raises Refusal where it lasts longer or too many wait already.
    """
    holds = _here()
    if holds.waiting[held.host_id] >= MOST_WAITING:
        raise _refusal(f"{MOST_WAITING} requests wait already while {held.host} switches.")
    holds.waiting[held.host_id] += 1
    try:
        look = holds.looking.get(held.host_id)
        if look is None or look.done():
            look = holds.looking[held.host_id] = asyncio.create_task(_look(held))
        async with asyncio.timeout(seconds):
            await asyncio.shield(look)
        if is_ending():
            raise _refusal(f"{held.host} switches, and Switchboard is stopped. Try again.")
    except TimeoutError:
        raise _refusal(f"{held.host} still switches after {LONGEST_S:.0f} s.") from None
    finally:
        holds.waiting[held.host_id] -= 1
        if not holds.waiting[held.host_id]:
            del holds.waiting[held.host_id]
            holds.looking.pop(held.host_id).cancel()


def waiting(host_id: int) -> int:
    """How many wait for this host on this loop."""
    return _here().waiting[host_id]


async def _look(held: Route) -> None:
    with news_of(held.host) as news:
        while True:
            news.expect()
            if is_ending() or not (await in_thread(route, held.host)).held:
                return
            await news.wait()


def _refusal(text: str) -> Refusal:
    return Refusal(503, "switching", text, headers=[("retry-after", "10")])
