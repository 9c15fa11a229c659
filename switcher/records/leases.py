"""Who may change a host: a lease with a fence number that only grows (rule 3).

Leases end by the shared time (`models.shared_time`), never by a machine's wall clock.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q, QuerySet

from switcher.audit.ledger import Actor, append
from switcher.domain.clock import Clock, system
from switcher.domain.errors import FenceLost
from switcher.models import Host, Lease, SwitchEvent
from switcher.models.shared_time import furthest_ahead, shared_now

LEASE_S = 15.0


def new_owner() -> str:
    """Return a name for one process's leases: readable, and never the same twice."""
    return f"{socket.gethostname()[:30]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """Who holds a host's lease, and on whose behalf. `switch_id` is set if it runs a switch."""

    host_id: int
    fence: int
    actor: Actor
    switch_id: int | None = None
    clock: Clock = system

    def lock_host(self) -> Host:
        """Lock the lease for a write and return the host. Raises FenceLost if it is not ours."""
        lease = Lease.objects.select_for_update().filter(host_id=self.host_id, fence=self.fence)
        if not lease.exists():
            raise FenceLost("Another worker has taken over the host.")
        return Host.objects.get(pk=self.host_id)

    def append(self, kind: str, host: Host, **facts: Any) -> None:
        """Append an audit entry with the fence, and with the switch if one runs."""
        switch = SwitchEvent.objects.filter(pk=self.switch_id).first() if self.switch_id else None
        append(
            kind,
            self.actor,
            host=host.name,
            switch=switch,
            clock=self.clock,
            fence=self.fence,
            **facts,
        )


def take(host_id: int, owner: str, clock: Clock = system) -> int | None:
    """Take the host's lease if it is free or has run out. Return the new fence; None if somebody
    else holds the lease."""
    with transaction.atomic():
        Lease.objects.get_or_create(host_id=host_id)
        now = shared_now(clock)
        free = ~_in_force(now, clock)
        won = Lease.objects.filter(free, host_id=host_id).update(
            owner=owner, until=now + timedelta(seconds=LEASE_S), fence=F("fence") + 1
        )
        # Lost race: another worker's update came first and holds it now.
        return Lease.objects.get(host_id=host_id).fence if won else None


def renew(host_id: int, fence: int, clock: Clock = system) -> bool:
    """Extend the lease to LEASE_S seconds from now. Return False if it is lost: then stop at once.

    A lease that has run out is not revived, even if nobody else has taken it: in between, the
    holder may have touched the host without one.
    """
    now = shared_now(clock)
    ours = Lease.objects.filter(_in_force(now, clock), host_id=host_id, fence=fence)
    return bool(ours.update(until=now + timedelta(seconds=LEASE_S)))


def holds(host_id: int, fence: int, clock: Clock = system) -> bool:
    """Return whether this fence may still touch the host."""
    return in_force(clock).filter(host_id=host_id, fence=fence).exists()


def in_force(clock: Clock = system) -> QuerySet[Lease]:
    """Return the leases that somebody holds now."""
    return Lease.objects.filter(_in_force(shared_now(clock), clock))


def _in_force(now: datetime, clock: Clock) -> Q:
    return Q(until__gt=now, until__lte=now + furthest_ahead(LEASE_S, clock)) & ~Q(owner="")


def give_back(host_id: int, fence: int) -> None:
    """End the lease early. Does nothing if it is no longer ours."""
    Lease.objects.filter(host_id=host_id, fence=fence).update(owner="", until=None)
