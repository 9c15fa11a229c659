"""Adds the gateway's counts to the hourly usage. It stores only counts, never contents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F

from switcher.models import ApiKey, Usage


@dataclass(frozen=True, slots=True)
class UsageBucket:
    """A group of requests that are counted together. `key` is the id of a key; None for requests
    without one."""

    key: int | None
    host: str
    model: str
    hour: datetime


@dataclass(slots=True)
class UsageCounts:
    """The counts of a bucket. `waits` counts requests held by a closed gate, `wait_ms` their total
    time. `cut_prompts` counts prompts that were longer than the model's context,
    `fallbacks` requests that another model answered because theirs was not loaded.
    """

    requests: int = 0
    errors: int = 0
    waits: int = 0
    wait_ms: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cut_prompts: int = 0
    fallbacks: int = 0
    last_cut_at: datetime | None = None

    def add(self, other: UsageCounts) -> None:
        """Add another bucket's counts to these."""
        for name in Usage.COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_cut_at = self.last_cut_at or other.last_cut_at


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """The counts since the last batch, and the ids of the keys that were used.

    A key can be used without a count: listing models is not counted.
    """

    rows: list[tuple[UsageBucket, UsageCounts]]
    keys: set[int]

    def __bool__(self) -> bool:
        return bool(self.rows or self.keys)


def add_usage(batch: UsageBatch, used_at: datetime) -> None:
    """Add a batch in one transaction, and set when its keys were last used."""
    with transaction.atomic():
        for bucket, counts in batch.rows:
            row, _ = Usage.objects.get_or_create(
                key_id=bucket.key, host=bucket.host, model=bucket.model, hour=bucket.hour
            )
            more: dict[str, Any] = {n: F(n) + getattr(counts, n) for n in Usage.COUNTS}
            if counts.last_cut_at is not None:
                more["last_cut_at"] = counts.last_cut_at
            Usage.objects.filter(pk=row.pk).update(**more)
        ApiKey.objects.filter(pk__in=batch.keys).update(last_used_at=used_at)
