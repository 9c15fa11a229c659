"""How the trail's proofs stand: what is signed, what has left the machine, what waits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Min

from switcher.audit.ledger_reader import (
    index_row,
    newest_checkpoint,
    newest_entry,
    newest_seq,
)
from switcher.audit.paths import sinks
from switcher.audit.verifier.switchboard_verify import UNREADABLE
from switcher.domain.clock import is_within
from switcher.models import AuditEntry, Checkpoint, CheckpointDelivery

CHECKED = "audit.checked"
# An entry is signed within 60 s, and a checkpoint delivered at once.
LATE_AFTER = timedelta(seconds=75)
UNDELIVERED_AFTER = timedelta(seconds=30)
# It is verified once a day.
CHECK_LATE_AFTER = timedelta(hours=25)


@dataclass(frozen=True, slots=True)
class SinkState:
    """One sink: how many checkpoints it still has to get, and why."""

    name: str
    waiting: int
    waits_since: datetime | None
    error: str
    delivered_at: datetime | None

    def problem(self, now: datetime) -> str:
        """What is wrong with it, in a sentence; empty if nothing is."""
        if self.waits_since is None:
            return ""
        if not self.error and is_within(UNDELIVERED_AFTER, self.waits_since, now):
            return ""
        why = f": {self.error}" if self.error else ""
        many = f"{self.waiting} checkpoint{'s' if self.waiting != 1 else ''}"
        return f"The {self.name} sink does not take checkpoints{why}. Not delivered yet: {many}."


@dataclass(frozen=True, slots=True)
class Check:
    """The newest verification of the whole trail that was written down. One that failed has no
    verdicts; `error` says why."""

    seq: int
    at: datetime
    by: str
    ok: bool
    verdicts: dict[str, bool]
    entries: int
    bad_seq: int | None
    problems: tuple[str, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Trail:
    """The trail as it stands. `signed` entries are under the newest checkpoint."""

    now: datetime
    entries: int
    signed: int
    signed_at: datetime | None
    unsigned_since: datetime | None
    sinks: tuple[SinkState, ...]
    check: Check | None
    checked_since: datetime | None  # the last check, or where there is none, the first checkpoint

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in sentences."""
        found = [sink.problem(self.now) for sink in self.sinks]
        late = self.unsigned_since
        if late is not None and not is_within(LATE_AFTER, late, self.now):
            found.append(f"{self.entries - self.signed} audit entries are not signed yet.")
        if self.check is not None and not self.check.ok:
            found.append(_bad_check(self.check))
        since = self.checked_since
        if since is not None and not is_within(CHECK_LATE_AFTER, since, self.now):
            found.append("The whole audit trail was not verified for more than a day.")
        return tuple(text for text in found if text)


def _bad_check(check: Check) -> str:
    if check.error:  # why stands on the page: `/health` tells it to nobody
        return "The audit trail could not be verified. Audit, Verify says why."
    missing = [name for name, holds in check.verdicts.items() if not holds]
    where = f" First bad entry: {check.bad_seq}." if check.bad_seq is not None else ""
    return f"The audit trail is not {' and not '.join(missing)}.{where}"


def trail(now: datetime) -> Trail:
    """The trail as it stands, in a few small queries."""
    last = newest_checkpoint()
    size = last.size if last is not None else 0
    unsigned = AuditEntry.objects.filter(seq__gt=size).order_by("seq")
    check = newest_check()
    return Trail(
        now=now,
        entries=newest_seq(),
        signed=size,
        signed_at=last.at if last is not None else None,
        unsigned_since=unsigned.values_list("at", flat=True).first(),
        sinks=_sinks(),
        check=check,
        checked_since=check.at if check is not None else _first_signed_at(),
    )


def _first_signed_at() -> datetime | None:
    return Checkpoint.objects.order_by("size", "id").values_list("at", flat=True).first()


def _sinks() -> tuple[SinkState, ...]:
    """Over what waits alone, which has an index: what has arrived is a month of checkpoints."""
    rows = (
        CheckpointDelivery.objects.filter(delivered_at=None)
        .values("sink")
        .annotate(waiting=Count("pk"), since=Min("checkpoint__at"), error=Max("error"))
    )
    known: dict[str, dict[str, Any]] = {row["sink"]: {**row} for row in rows}
    nothing: dict[str, Any] = {"waiting": 0, "since": None, "error": ""}
    found = [(sink.name, known.get(sink.name, nothing)) for sink in sinks()]
    return tuple(
        SinkState(name, row["waiting"], row["since"], row["error"] or "", _delivered_at(name))
        for name, row in found
    )


def _delivered_at(sink: str) -> datetime | None:
    """When the newest one arrived: the last row by its key, but for those that wait."""
    arrived = CheckpointDelivery.objects.filter(sink=sink).exclude(delivered_at=None)
    return arrived.order_by("-pk").values_list("delivered_at", flat=True).first()


def newest_check() -> Check | None:
    """Return what the newest verification of the whole trail found."""
    newest = newest_entry(CHECKED)
    if newest is None:
        return None
    seq, body = newest
    row = index_row(body)
    if row is None:
        return _unreadable_check(seq)
    try:
        return _check(row, json.loads(body)["facts"])
    except UNREADABLE:
        return _unreadable_check(seq)


def _check(row: dict[str, Any], facts: dict[str, Any]) -> Check:
    if facts.get("error"):
        return _failed(row["seq"], row["at"], row["actor"], str(facts["error"]))
    return Check(
        row["seq"],
        row["at"],
        row["actor"],
        facts["ok"],
        {name: facts["verdicts"][name] for name in ("intact", "anchored", "complete")},
        int(facts["entries"]),
        None if facts["bad_seq"] is None else int(facts["bad_seq"]),
        tuple(map(str, facts["problems"])),
    )


def _unreadable_check(seq: int) -> Check:
    """No reason to verify before it is due: the next verification names the entry."""
    row = AuditEntry.objects.get(pk=seq)
    return _failed(seq, row.at, row.actor, f"Entry {seq}, which has the result, cannot be read.")


def _failed(seq: int, at: datetime, by: str, error: str) -> Check:
    return Check(seq, at, by, False, {}, 0, None, (), error)
