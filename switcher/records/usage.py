"""What the gateway counted, added to the hours' rows in batches. Counts, never contents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import F

from switcher.models import ApiKey, Usage


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


@dataclass(frozen=True, slots=True)
class Batch:
    """What was counted since the last batch, and the ids of the keys that were used: for a list of
    models, too, which is not counted."""

    rows: list[tuple[Where, Counts]]
    keys: set[int]

    def __bool__(self) -> bool:
        return bool(self.rows or self.keys)


def add(batch: Batch, used_at: datetime) -> None:
    """Add what was counted, in one transaction; its keys were used just now."""
    with transaction.atomic():
        for where, counts in batch.rows:
            _add(where, counts)
        ApiKey.objects.filter(pk__in=batch.keys).update(last_used_at=used_at)


def _add(where: Where, counts: Counts) -> None:
    row, _ = Usage.objects.get_or_create(
        key_id=where.key, host=where.host, model=where.model, hour=where.hour
    )
    more = {name: F(name) + getattr(counts, name) for name in Usage.COUNTS}
    Usage.objects.filter(pk=row.pk).update(**more)
