"""Open and recent drift, for pages, the API and commands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q

from switcher.domain.drift import WORDS, Kind, OpenDrift
from switcher.models import Drift
from switcher.queries.from_rows import from_row, grouped

RECENT_DRIFTS = 6


@dataclass(frozen=True, slots=True)
class DriftRow:
    """A drift with its evidence. `repair` is the switch that should end it."""

    id: int
    kind: str
    model: str
    digest: str
    text: str
    evidence: Mapping[str, Any]
    since: datetime
    ended_at: datetime | None
    ending: str
    repair: int | None

    @property
    def word(self) -> str:
        return WORDS[Kind(self.kind)]

    @property
    def is_open(self) -> bool:
        return self.ended_at is None


def open_by_host(hosts: Iterable[int]) -> defaultdict[int, tuple[OpenDrift, ...]]:
    """Return the open drifts of these hosts, oldest first, in one query."""
    rows = Drift.objects.filter(host_id__in=list(hosts), ended_at=None).order_by("id")
    return grouped((row.host_id, OpenDrift.of(row)) for row in rows.defer("evidence"))


def open_drifts(host_id: int) -> tuple[DriftRow, ...]:
    """Return the open drifts of a host, oldest first."""
    rows = Drift.objects.filter(host_id=host_id, ended_at=None).order_by("id")
    return tuple(_row(row) for row in rows)


def recent_drifts(host_id: int) -> tuple[DriftRow, ...]:
    """Return the open drifts of a host, then those that ended most recently, each newest first."""
    drifts = Drift.objects.filter(host_id=host_id).order_by("-id")
    ended = drifts.filter(ended_at__isnull=False).values("id")[:RECENT_DRIFTS]
    rows = [_row(row) for row in drifts.filter(Q(ended_at=None) | Q(pk__in=ended))]
    return tuple(sorted(rows, key=lambda row: not row.is_open))


def _row(row: Drift) -> DriftRow:
    return from_row(DriftRow, row, repair=row.repair_id)
