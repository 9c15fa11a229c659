"""Touching a host outside of a switch: a short act, under the same lease as a switch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from switcher.domain.clock import Clock, system
from switcher.domain.errors import Conflict, FenceLost, HostBusy
from switcher.ollama.client import QUICK_TIMEOUT_S
from switcher.records import leases, switches

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HostLease:
    """A host's lease in the hands of a short act. It is not renewed: an act ends within it."""

    host_id: int
    fence: int
    check: Callable[[], None]  # just before each call; raises FenceLost
    until: float  # the moment by `clock` at which the lease ends
    clock: Clock

    def call(self, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a quick call to the host, unless it might outlast the lease. Raises
        FenceLost, Conflict where too little time is left, and what the call raises."""
        self.check()
        if self.clock.monotonic() + QUICK_TIMEOUT_S > self.until:
            raise Conflict("The host answers too slowly. Try again in a moment.")
        return make(*args, **kwargs)


@contextmanager
def lease_host(
    host_id: int, owner: str, clock: Clock = system, wait_s: float = 0.0
) -> Iterator[HostLease]:
    """Hold the host for a few quick calls, waiting `wait_s` at most for somebody else to
    give it back. Raises HostBusy where a switch is open or somebody else holds it: what runs there
    is more important."""
    give_up_at = clock.monotonic() + wait_s
    until = clock.monotonic() + leases.LEASE_S
    while (fence := leases.take(host_id, owner, clock)) is None:
        if clock.monotonic() < give_up_at and not switches.is_open(host_id):
            clock.sleep(0.05)
            until = clock.monotonic() + leases.LEASE_S
            continue
        raise HostBusy("Something else is at work on this host. Try again in a moment.")

    def check() -> None:
        if not leases.holds(host_id, fence, clock):
            raise FenceLost("The lease on the host ran out.")

    try:
        if switches.is_open(host_id):
            raise HostBusy("A switch runs on this host. Try again when it has ended.")
        yield HostLease(host_id, fence, check, until, clock)
    finally:
        leases.give_back(host_id, fence)
