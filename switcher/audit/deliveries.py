"""Delivers checkpoints to sinks: claimed by one process at a time, retried until they arrive."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.db.models import F

from switcher.audit.paths import Sink
from switcher.audit.sinks import NotDelivered, send
from switcher.domain.clock import Clock, system
from switcher.models import CheckpointDelivery

log = logging.getLogger(__name__)

# Longer than any sink may take. If a process dies holding a claim, others wait this long.
CLAIM_S = 30.0
MAX_RETRY_S = 60.0
KEEP_DELIVERED = timedelta(days=30)


class Deliverer:
    """A loop that delivers checkpoints to one sink, oldest first."""

    def __init__(self, sink: Sink, clock: Clock = system) -> None:
        self._sink = sink
        self._clock = clock
        self._failures = 0  # in a row

    def tick(self) -> float | None:
        """Deliver everything that is due. Return the seconds until a retry, if one failed."""
        while (delivery := claim(self._sink.name, self._clock)) is not None:
            try:
                send(self._sink, delivery.checkpoint.note)
            except NotDelivered as exc:
                return self._retry_later(delivery, str(exc))
            self._failures = 0
            mark_delivered(delivery, self._clock)
        return None

    def _retry_later(self, delivery: CheckpointDelivery, why: str) -> float:
        self._failures += 1
        wait_s = min(MAX_RETRY_S, 2.0**self._failures)
        pending = CheckpointDelivery.objects.filter(pk=delivery.pk, delivered_at=None)
        next_at = self._clock.now() + timedelta(seconds=wait_s)
        pending.update(error=why[:300], next_at=next_at)
        log.warning(
            "the %s sink did not take a checkpoint: %s",
            self._sink.name,
            why,
            extra={"action": "not-delivered"},
        )
        return wait_s


def claim(sink: str, clock: Clock = system) -> CheckpointDelivery | None:
    """Claim the oldest due delivery for this sink that no other process has claimed."""
    now = clock.now()
    pending = CheckpointDelivery.objects.filter(sink=sink, delivered_at=None)
    due = pending.filter(next_at__lte=now).select_related("checkpoint").order_by("pk")
    for delivery in due[:5]:
        claimed = pending.filter(pk=delivery.pk, next_at=delivery.next_at).update(
            next_at=now + timedelta(seconds=CLAIM_S), tries=F("tries") + 1
        )
        # Lost race if not: another process has claimed it meanwhile.
        if claimed:
            return delivery
    return None


def mark_delivered(delivery: CheckpointDelivery, clock: Clock = system) -> None:
    """Record that a checkpoint has arrived."""
    rows = CheckpointDelivery.objects.filter(pk=delivery.pk)
    rows.update(delivered_at=clock.now(), error="")


def forget_delivered(clock: Clock = system) -> None:
    """Delete deliveries that arrived long ago."""
    CheckpointDelivery.objects.filter(delivered_at__lt=clock.now() - KEEP_DELIVERED).delete()
