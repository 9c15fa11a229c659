"""What the gateway counted, added to the hours' rows in batches. Counts, never contents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import F

from switcher.models import ApiKey, Usage

COUNTS = ("requests", "errors", "waits", "wait_ms", "tokens_in", "tokens_out")


@dataclass(frozen=True, slots=True)
class Where:
    """Whose requests are counted: by key (None: without one), host, model and hour."""

    key: int | None
    host: str
    model: str
    hour: datetime


@dataclass(slots=True)
class Counts:
    """How many since the last batch. `wait_ms` is what held requests waited, in all."""

    requests: int = 0
    errors: int = 0
    waits: int = 0
    wait_ms: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


def add(batch: Iterable[tuple[Where, Counts]], used_at: datetime) -> None:
    """Add what was counted, in one transaction; the keys among it were used just now."""
    rows = list(batch)
    with transaction.atomic():
        for where, counts in rows:
            _add(where, counts)
        keys = {where.key for where, _ in rows if where.key is not None}
        ApiKey.objects.filter(pk__in=keys).update(last_used_at=used_at)


def _add(where: Where, counts: Counts) -> None:
    row, _ = Usage.objects.get_or_create(
        key_id=where.key, host=where.host, model=where.model, hour=where.hour
    )
    more = {name: F(name) + getattr(counts, name) for name in COUNTS}
    Usage.objects.filter(pk=row.pk).update(**more)
