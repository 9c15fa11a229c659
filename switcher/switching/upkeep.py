"""Touching a host outside of a switch: a short act, under the same lease as a switch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from switcher.clock import Clock, system
from switcher.errors import Conflict, FenceLost
from switcher.records import leases, switches


@dataclass(frozen=True, slots=True)
class Hold:
    """A host's lease in the hands of a short act. It is not renewed: an act ends within it."""

    host_id: int
    fence: int
    check: Callable[[], None]  # just before each call; raises FenceLost


@contextmanager
def hold_host(host_id: int, owner: str, clock: Clock = system) -> Iterator[Hold]:
    """Hold the host for a few calls of QUICK_S each. Raises Conflict where a switch is open or
    somebody else holds it: what runs there is more important."""
    fence = leases.take(host_id, owner, clock)
    if fence is None:
        raise Conflict("Something else is at work on this host. Try again in a moment.")

    def check() -> None:
        if not leases.holds(host_id, fence, clock):
            raise FenceLost("The lease on the host ran out.")

    try:
        if switches.is_open(host_id):
            raise Conflict("A switch runs on this host. Try again when it has ended.")
        yield Hold(host_id, fence, check)
    finally:
        leases.give_back(host_id, fence)
