"""Run a short task on a host outside of a switch, under the same lease as a switch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from switcher.audit.ledger import Actor
from switcher.domain.clock import Clock, system
from switcher.domain.errors import Conflict, FenceLost, HostBusy
from switcher.domain.servers import Server
from switcher.ollama.client import QUICK_TIMEOUT_S, Client, Ollama
from switcher.records import leases, switches
from switcher.records.leases import LeaseHolder, new_owner
from switcher.switching import wake

P = ParamSpec("P")
T = TypeVar("T")

RETRY_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class HostLease:
    """The lease on a host, held by a short task. It is not renewed: the task must end before
    `until`, by the monotonic clock."""

    host_id: int
    fence: int
    until: float
    ollama: Ollama
    clock: Clock

    def holder(self, actor: Actor) -> LeaseHolder:
        return LeaseHolder(self.host_id, self.fence, actor, clock=self.clock)

    def call(self, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call of at most QUICK_TIMEOUT_S to the host.

        Raises FenceLost, Conflict if the call might outlast the lease, and what the call raises.
        """
        if not leases.holds(self.host_id, self.fence, self.clock):
            raise FenceLost("The lease on the host ran out.")
        if self.clock.monotonic() + QUICK_TIMEOUT_S > self.until:
            raise Conflict("The host answers too slowly. Try again in a moment.")
        return make(*args, **kwargs)


@contextmanager
def lease_host(
    host_id: int,
    server: Server,
    clock: Clock = system,
    connect: Callable[[Server], Ollama] = Client,
    wait_s: float = 0.0,
) -> Iterator[HostLease]:
    """Lease the host for a few calls of QUICK_TIMEOUT_S each.

    Waits at most `wait_s` for another holder to give the lease back. Raises HostBusy if a switch is
    open or the lease is held by somebody else, whose work is more important.
    """
    fence, until = _take(host_id, clock, wait_s)
    try:
        if switches.is_open(host_id):
            raise HostBusy("A switch runs on this host. Try again when it has ended.")
        ollama = connect(server)
        try:
            yield HostLease(host_id, fence, until, ollama, clock)
        finally:
            ollama.close()
    finally:
        leases.give_back(host_id, fence)
        wake.worker()  # a switch that was requested meanwhile waits for the lease


def _take(host_id: int, clock: Clock, wait_s: float) -> tuple[int, float]:
    """Return the fence, and the monotonic time at which the lease ends."""
    owner = new_owner()
    give_up_at = clock.monotonic() + wait_s
    while True:
        until = clock.monotonic() + leases.LEASE_S
        fence = leases.take(host_id, owner, clock)
        if fence is not None:
            return fence, until
        if clock.monotonic() >= give_up_at or switches.is_open(host_id):
            raise HostBusy("Something else is at work on this host. Try again in a moment.")
        clock.sleep(RETRY_INTERVAL_S)
