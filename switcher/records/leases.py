"""Who may change a host: a lease with a fence number that only grows (rule 3)."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import F, Q

from switcher.domain.clock import Clock, system
from switcher.models import Lease

LEASE_S = 15.0


def take(host_id: int, owner: str, clock: Clock = system) -> int | None:
    """Take the host's lease if it is free or has run out: the new fence, or None if it is held."""
    now = clock.now()
    with transaction.atomic():
        Lease.objects.get_or_create(host_id=host_id)
        free = Q(owner="") | Q(until__isnull=True) | Q(until__lte=now)
        won = Lease.objects.filter(free, host_id=host_id).update(
            owner=owner, until=now + timedelta(seconds=LEASE_S), fence=F("fence") + 1
        )
        # Lost race: another worker's update came first and holds it now.
        return Lease.objects.get(host_id=host_id).fence if won else None


def renew(host_id: int, fence: int, clock: Clock = system) -> bool:
    """Hold it for another LEASE_S seconds. False: it is somebody else's, stop at once.

    A lease that has run out is not revived, even if nobody took it: between the two a call
    may have been made that nobody vouches for.
    """
    now = clock.now()
    until = now + timedelta(seconds=LEASE_S)
    return bool(
        Lease.objects.filter(host_id=host_id, fence=fence, until__gt=now)
        .exclude(owner="")
        .update(until=until)
    )


def holds(host_id: int, fence: int, clock: Clock = system) -> bool:
    """Whether this fence may still touch the host."""
    return (
        Lease.objects.filter(host_id=host_id, fence=fence, until__gt=clock.now())
        .exclude(owner="")
        .exists()
    )


def give_back(host_id: int, fence: int) -> None:
    """End the lease early; nothing happens if it is no longer ours."""
    Lease.objects.filter(host_id=host_id, fence=fence).update(owner="", until=None)
