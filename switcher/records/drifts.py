"""Drift as rows: what began and what ended, each with its audit entry in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system
from switcher.domain.drift import Found, Kind, Recorded
from switcher.domain.states import OPEN
from switcher.models import Drift, Host, SwitchEvent

WATCHER = Actor("watcher", "watcher")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one reading showed, and what it was compared with. `kinds` are those of which it can
    tell: a drift of another kind stays open."""

    host_id: int
    active_digest: str
    active_since: datetime | None
    read_at: datetime
    kinds: frozenset[Kind]
    found: tuple[Found, ...]
    ending: Callable[[Kind, str], str]


def record(judged: Judgement, clock: Clock = system) -> tuple[Recorded, ...] | None:
    """Open what is new, end what is over. Gives what is open then; None, and nothing written,
    where the reading can say nothing: a switch is open or ended after it, or what is desired
    has changed meanwhile."""
    with writing():
        host = Host.objects.select_for_update().filter(pk=judged.host_id, removed_at=None).first()
        if host is None or not _still_holds(host, judged):
            return None
        known = {(d.kind, d.digest): d for d in Drift.objects.filter(host=host, ended_at=None)}
        now = {f.key: f for f in judged.found}
        for key, row in known.items():
            if key not in now and Kind(row.kind) in judged.kinds:
                _end(row, host, judged.ending(Kind(row.kind), row.digest), clock)
        for key, found in now.items():
            # A flap is told of where it is counted.
            if key not in known and found.kind is not Kind.FLAPPING:
                _open(host, found, judged.read_at, clock)
        return open_on(host)


def _still_holds(host: Host, judged: Judgement) -> bool:
    if (host.active_digest, host.active_since) != (judged.active_digest, judged.active_since):
        return False
    rows = SwitchEvent.objects.filter(host=host)
    open_now = rows.filter(state__in=OPEN)
    return not (open_now.exists() or rows.filter(ended_at__gte=judged.read_at).exists())


def open_on(host: Host) -> tuple[Recorded, ...]:
    """What is open on a host, the oldest first."""
    rows = Drift.objects.filter(host=host, ended_at=None).order_by("id")
    return tuple(Recorded.of(row) for row in rows)


def _open(host: Host, found: Found, at: datetime, clock: Clock, kind: str = "drift.seen") -> None:
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
    """These are to be mended by that switch."""
    Drift.objects.filter(pk__in=list(drifts), ended_at=None).update(repair_id=switch_id)


def flap(host_id: int, text: str, evidence: dict[str, Any], clock: Clock = system) -> bool:
    """Tell, once, that repairs do not help. False where it is told already."""
    with writing():
        host = Host.objects.select_for_update().filter(pk=host_id, removed_at=None).first()
        if host is None or _flaps(host) is not None:
            return False
        found = Found(Kind.FLAPPING, "", "", text, evidence)
        _open(host, found, clock.now(), clock, kind="drift.flapping")
        return True


def end_flap(host_id: int, why: str, clock: Clock = system) -> None:
    """Repairs may be tried again."""
    with writing():
        host = Host.objects.select_for_update().filter(pk=host_id).first()
        row = _flaps(host) if host else None
        if host is not None and row is not None:
            _end(row, host, why, clock)


def _flaps(host: Host) -> Drift | None:
    return Drift.objects.filter(host=host, kind=Kind.FLAPPING.value, ended_at=None).first()
