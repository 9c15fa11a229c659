"""Record drift: what began and what ended, with audit entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system
from switcher.domain.drift import DriftFinding, Kind, OpenDrift
from switcher.domain.states import OPEN
from switcher.models import Drift, Host, SwitchEvent

WATCHER = Actor("watcher", "watcher")


@dataclass(frozen=True, slots=True)
class Detection:
    """The drift that one reading shows, and what the reading was compared with. The reading can
    only show drift of these `kinds`; open drift of other kinds stays open. `ending` says why a
    drift has ended."""

    host_id: int
    active_digest: str
    active_since: datetime | None
    read_at: datetime
    kinds: frozenset[Kind]
    found: tuple[DriftFinding, ...]
    ending: Callable[[Kind, str], str]


def record(detection: Detection, clock: Clock = system) -> tuple[OpenDrift, ...] | None:
    """Record new drift, end what is over, and return the drift that is then open.

    Write nothing and return None if the reading is out of date: a switch is open or has ended
    since, or the desired state has changed.
    """
    with writing():
        host = (
            Host.objects.select_for_update().filter(pk=detection.host_id, removed_at=None).first()
        )
        if host is None or not _is_current(host, detection, clock):
            return None
        known = {(d.kind, d.digest): d for d in Drift.objects.filter(host=host, ended_at=None)}
        now = {f.key: f for f in detection.found}
        for key, row in known.items():
            if key not in now and Kind(row.kind) in detection.kinds:
                _end(row, host, detection.ending(Kind(row.kind), row.digest), clock)
        for key, found in now.items():
            # Flapping is recorded where repairs are counted.
            if found.kind is Kind.FLAPPING:
                continue
            if key not in known:
                _open(host, found, detection.read_at, clock)
            elif known[key].text != found.text:
                _update(known[key], found)
        return open_on(host)


def _is_current(host: Host, detection: Detection, clock: Clock) -> bool:
    if (host.active_digest, host.active_since) != (detection.active_digest, detection.active_since):
        return False
    rows = SwitchEvent.objects.filter(host=host)
    open_now = rows.filter(state__in=OPEN)
    # An end that lies ahead was recorded before the clock was set back.
    ended_since = rows.filter(ended_at__range=(detection.read_at, clock.now()))
    return not (open_now.exists() or ended_since.exists())


def open_on(host: Host) -> tuple[OpenDrift, ...]:
    """Return the open drift of a host, oldest first."""
    rows = Drift.objects.filter(host=host, ended_at=None).order_by("id")
    return tuple(OpenDrift.of(row) for row in rows)


def _open(
    host: Host, found: DriftFinding, at: datetime, clock: Clock, kind: str = "drift.seen"
) -> None:
    Drift.objects.create(
        host=host,
        kind=found.kind.value,
        model=found.model,
        digest=found.digest,
        text=found.text,
        evidence=found.evidence,
        since=at,
    )
    append(
        kind,
        WATCHER,
        host=host.name,
        clock=clock,
        drift=found.kind.value,
        model=found.model,
        digest=found.digest,
        text=found.text,
        evidence=found.evidence,
    )


def _update(row: Drift, found: DriftFinding) -> None:
    """Say what the reading shows now. That is no new drift, so it leaves no audit entry."""
    row.model, row.text, row.evidence = found.model, found.text, found.evidence
    row.save(update_fields=["model", "text", "evidence"])


def _end(row: Drift, host: Host, why: str, clock: Clock) -> None:
    row.ended_at, row.ending = clock.now(), why
    row.save(update_fields=["ended_at", "ending"])
    append(
        "drift.ended",
        WATCHER,
        host=host.name,
        clock=clock,
        drift=row.kind,
        model=row.model,
        digest=row.digest,
        ending=why,
        repair=row.repair_id,
    )


def link_repair(drifts: Iterable[int], switch_id: int) -> None:
    """Record that this switch should repair these drifts."""
    Drift.objects.filter(pk__in=list(drifts), ended_at=None).update(repair_id=switch_id)


def record_flapping(
    host_id: int, text: str, evidence: dict[str, Any], clock: Clock = system
) -> bool:
    """Record that repairs do not help. Return False if that is recorded already."""
    with writing():
        host = Host.objects.select_for_update().filter(pk=host_id, removed_at=None).first()
        if host is None or _flapping(host) is not None:
            return False
        found = DriftFinding(Kind.FLAPPING, "", "", text, evidence)
        _open(host, found, clock.now(), clock, kind="drift.flapping")
        return True


def end_flapping(host_id: int, why: str, clock: Clock = system) -> None:
    """End the flapping drift of a host, so that repairs may be tried again."""
    with writing():
        host = Host.objects.select_for_update().filter(pk=host_id).first()
        row = _flapping(host) if host else None
        if host is not None and row is not None:
            _end(row, host, why, clock)


def _flapping(host: Host) -> Drift | None:
    return Drift.objects.filter(host=host, kind=Kind.FLAPPING.value, ended_at=None).first()
