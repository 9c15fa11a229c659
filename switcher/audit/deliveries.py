"""Checkpoints on their way out: claimed by one process at a time, tried until they arrive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import F

from switcher.domain.clock import Clock, system
from switcher.models import Delivery

# Longer than any sink may take; who claimed one and died keeps it so long from others.
CLAIM_S = 30.0
KEEP_DELIVERED = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A checkpoint that this process delivers now."""

    id: int
    size: int
    note: str


def claim(sink: str, clock: Clock = system) -> Claimed | None:
    """The oldest one that this sink waits for, if no other process has it."""
    now = clock.now()
    due = Delivery.objects.filter(sink=sink, delivered_at=None, next_at__lte=now)
    for row in due.select_related("checkpoint").order_by("pk")[:5]:
        won = Delivery.objects.filter(pk=row.pk, delivered_at=None, next_at=row.next_at).update(
            next_at=now + timedelta(seconds=CLAIM_S), tries=F("tries") + 1
        )
        # Lost race: another process has claimed it meanwhile.
        if won:
            return Claimed(row.pk, row.checkpoint.size, row.checkpoint.note)
    return None


def delivered(claimed: Claimed, clock: Clock = system) -> None:
    """It has arrived."""
    Delivery.objects.filter(pk=claimed.id).update(delivered_at=clock.now(), error="")


def failed(claimed: Claimed, error: str, wait_s: float, clock: Clock = system) -> None:
    """It has not; try again after `wait_s` seconds."""
    again = clock.now() + timedelta(seconds=wait_s)
    Delivery.objects.filter(pk=claimed.id, delivered_at=None).update(
        error=error[:300], next_at=again
    )


def forget_delivered(clock: Clock = system) -> None:
    """Drop what arrived long ago: the sink itself has it."""
    Delivery.objects.filter(delivered_at__lt=clock.now() - KEEP_DELIVERED).delete()
