"""The newest readings of hosts: the stored ones, or newer ones that this process has made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from switcher.domain.model_copies import left_over, with_model_names, without, without_copies
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, Resident
from switcher.domain.published_name import PublishedName
from switcher.models import Host, Reading
from switcher.queries.from_rows import from_row
from switcher.queries.model_copies import model_copies_of, tags_by_host, tags_of


@dataclass(frozen=True, slots=True)
class LatestReading:
    """The newest reading of a host. If the host did not answer, it keeps what was seen before."""

    at: datetime | None = None
    answered_at: datetime | None = None
    resident: tuple[Resident, ...] = ()
    installed: tuple[Installed, ...] = ()
    version: str = ""
    latency_ms: int = 0
    error: str = ""
    failures: int = 0
    reached: frozenset[str] = frozenset()  # digests that some installed name means


def last_reading(host_id: int) -> Observation | None:
    """Return what the host held when it last answered, and when that was; None if it never did."""
    row = Reading.objects.filter(host_id=host_id).exclude(answered_at=None).first()
    if row is None or row.answered_at is None:
        return None
    stored = _stored(row)
    return Observation(row.answered_at, stored.resident, stored.installed, stored.version)


def left_over_copies(host_id: int) -> tuple[Installed, ...]:
    """Return the model copies on a host that are not recorded as ours, by its last reading."""
    seen = last_reading(host_id)
    recorded = (copy.name for copy in model_copies_of(host_id))
    return left_over(seen.installed, recorded) if seen else ()


def by_model_names(host_id: int, seen: Observation) -> Observation:
    """Return a reading under the names that people know: a resident model copy gets the name of its
    model; installed copies and the published name are left out."""
    published = Host.objects.filter(pk=host_id).values_list("published_as", flat=True).first()
    return replace(
        seen,
        resident=with_model_names(seen.resident, tags_of(host_id, seen.resident)),
        installed=without(without_copies(seen.installed), ModelName.parse(published or "")),
    )


def latest_readings(
    hosts: Iterable[Any], fresh: Mapping[int, Observation] | None
) -> dict[int, LatestReading]:
    """Return the newest reading of each host by host id, under the names that people know.

    `hosts` are rows with their `reading`; `fresh` are this process's own readings by host id. Makes
    a query only if a model copy is resident somewhere.
    """
    rows = list(hosts)
    found = {row.pk: _latest(row, (fresh or {}).get(row.pk)) for row in rows}
    tags = tags_by_host({host_id: reading.resident for host_id, reading in found.items()})
    return {row.pk: _named(row, found[row.pk], tags.get(row.pk, {})) for row in rows}


def _latest(host: Any, seen: Observation | None) -> LatestReading:
    stored = _stored(getattr(host, "reading", None))
    if seen is None or (stored.at is not None and stored.at >= seen.at):
        return stored
    return LatestReading(
        at=seen.at,
        answered_at=seen.at if seen.answered else stored.answered_at,
        resident=seen.resident if seen.answered or seen.resident else stored.resident,
        installed=seen.installed if seen.answered or seen.installed else stored.installed,
        version=seen.version or stored.version,
        latency_ms=seen.latency_ms,
        error=seen.error,
        # The first three failures are stored, and so counted, at once.
        failures=0 if seen.answered else max(1, stored.failures),
    )


def _stored(row: Reading | None) -> LatestReading:
    if row is None:
        return LatestReading()
    return from_row(
        LatestReading,
        row,
        resident=tuple(map(Resident.from_json, row.resident)),
        installed=tuple(map(Installed.from_json, row.installed)),
        reached=frozenset(),
    )


def _named(host: Any, reading: LatestReading, tags: Mapping[ModelName, ModelName]) -> LatestReading:
    published = PublishedName.of(host)
    return replace(
        reading,
        resident=with_model_names(reading.resident, {**tags, **published.copied}),
        installed=without(without_copies(reading.installed), published.name),
        reached=frozenset(i.digest for i in reading.installed),
    )
