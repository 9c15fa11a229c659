"""The health of the trail: its entries, key, triggers and sinks, and when it was last verified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Min, Value
from django.db.models.functions import Coalesce

from switcher.audit import immutability_triggers
from switcher.audit.checkpoints import key_problem
from switcher.audit.ledger import changed
from switcher.audit.ledger_reader import index_row, newest_checkpoint, newest_entry, newest_seq
from switcher.audit.paths import sinks
from switcher.audit.verifier.switchboard_verify import UNREADABLE
from switcher.domain.clock import Clock, is_within, system
from switcher.models import AuditEntry, Checkpoint, CheckpointDelivery

CHECKED = "audit.checked"
# An entry is signed within 60 s, and a checkpoint delivered at once.
MAX_UNSIGNED_FOR = timedelta(seconds=75)
MAX_UNDELIVERED_FOR = timedelta(seconds=30)
# The whole trail is verified once a day.
MAX_UNVERIFIED_FOR = timedelta(hours=25)

# The reason is only in the log, since it can be any exception.
UNKNOWN = "The state of the audit trail could not be read. The server's log says why."

# /health is public, and the reason names a path.
KEY_UNUSABLE = "The signing key cannot be used."


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """The state of a sink: how many checkpoints wait for it, and why."""

    name: str
    waiting: int
    waiting_since: datetime | None
    error: str
    delivered_at: datetime | None

    def problem(self, now: datetime) -> str:
        """Return what is wrong with it, in a sentence; empty if nothing is."""
        if self.waiting_since is None:
            return ""
        if not self.error and is_within(MAX_UNDELIVERED_FOR, self.waiting_since, now):
            return ""
        why = f": {self.error}" if self.error else ""
        count = f"{self.waiting} checkpoint{'s' if self.waiting != 1 else ''}"
        return f"The {self.name} sink does not take checkpoints{why}. Not delivered yet: {count}."


@dataclass(frozen=True, slots=True)
class Check:
    """The newest recorded verification of the whole trail. A failed one has an `error` and no
    verdicts.
    """

    seq: int
    at: datetime
    by: str
    ok: bool = False
    verdicts: dict[str, bool] | None = None
    entries: int = 0
    bad_seq: int | None = None
    problems: tuple[str, ...] = ()
    error: str = ""

    @property
    def problem(self) -> str:
        """Return what is wrong, in a sentence; empty if nothing is. The error itself may contain
        paths and is only for the page.
        """
        if self.ok:
            return ""
        if self.error:
            return "The audit trail could not be verified. Audit, Verify says why."
        missing = [name for name, holds in (self.verdicts or {}).items() if not holds]
        where = f" First bad entry: {self.bad_seq}." if self.bad_seq is not None else ""
        return f"The audit trail is not {' and not '.join(missing)}.{where}"


@dataclass(frozen=True, slots=True)
class TrailStatus:
    """The status of the trail at a moment. `signed` is the number of entries under the newest
    checkpoint."""

    now: datetime
    entries: int
    signed: int
    signed_at: datetime | None
    unsigned_since: datetime | None
    sinks: tuple[SinkStatus, ...]
    check: Check | None
    checked_since: datetime | None  # the last check; before the first one, the first checkpoint

    @property
    def problems(self) -> tuple[str, ...]:
        """Return what is wrong, in sentences."""
        found = [sink.problem(self.now) for sink in self.sinks]
        if self._is_late(self.unsigned_since, MAX_UNSIGNED_FOR):
            found.append(f"{self.entries - self.signed} audit entries are not signed yet.")
        if self.check is not None:
            found.append(self.check.problem)
        if self._is_late(self.checked_since, MAX_UNVERIFIED_FOR):
            found.append("The whole audit trail was not verified for more than a day.")
        return tuple(text for text in found if text)

    def _is_late(self, since: datetime | None, limit: timedelta) -> bool:
        return since is not None and not is_within(limit, since, self.now)


@dataclass(frozen=True, slots=True)
class Health:
    """The health of the trail, without secrets."""

    trail: TrailStatus
    key: str  # why the signing key cannot be used; empty if it can
    triggers: tuple[str, ...]  # the seals that are missing or altered

    @property
    def problems(self) -> tuple[str, ...]:
        found = [self.key] if self.key else []
        if self.triggers:
            found.append(
                f"Seals of the database are missing or altered: {', '.join(self.triggers)}."
            )
        return (*found, *self.trail.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the document of `/health`: counts, times and sentences, no path and no address."""
        trail = self.trail
        return {
            "ok": not self.problems,
            "problems": [KEY_UNUSABLE if text == self.key else text for text in self.problems],
            "audit": {
                "entries": trail.entries,
                "signed": trail.signed,
                "last_checkpoint_at": _iso(trail.signed_at),
                "last_checkpoint_age_s": _age_s(trail.signed_at, trail.now),
                "key": "unusable" if self.key else "ok",
                "seals": "altered" if self.triggers else "ok",
                "sinks": [
                    {
                        "name": sink.name,
                        "ok": not sink.problem(trail.now),
                        "waiting": sink.waiting,
                        "delivered_at": _iso(sink.delivered_at),
                    }
                    for sink in trail.sinks
                ],
                "last_verified_at": _iso(trail.check.at if trail.check else None),
                "last_verified_ok": trail.check.ok if trail.check else None,
            },
        }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _age_s(at: datetime | None, now: datetime) -> float | None:
    return round((now - at) / timedelta(seconds=1), 1) if at else None


# -- Reading it

_problems: tuple[str, ...] = ()


def problems() -> tuple[str, ...]:
    """Return the problems that this process found last, as sentences. Makes no query."""
    return _problems


def forget() -> None:
    """Forget the problems, for a new start in the same process."""
    global _problems
    _problems = ()


def health(clock: Clock = system) -> Health:
    """Check the trail now, and keep the problems for the pages of this process."""
    try:
        triggers = tuple(immutability_triggers.differing())
        found = Health(trail_status(clock.now()), key_problem(), triggers)
    except Exception:
        _keep((UNKNOWN,))
        raise
    _keep(found.problems)
    return found


def _keep(problems: tuple[str, ...]) -> None:
    global _problems
    if problems != _problems:
        _problems = problems
        changed.send_robust(sender="health")  # the pages show them


def trail_status(now: datetime) -> TrailStatus:
    """Return the state of the trail, in a few small queries."""
    last = newest_checkpoint()
    size = last.size if last is not None else 0
    unsigned = AuditEntry.objects.filter(seq__gt=size).order_by("seq")
    check = newest_check()
    return TrailStatus(
        now=now,
        entries=newest_seq(),
        signed=size,
        signed_at=last.at if last is not None else None,
        unsigned_since=unsigned.values_list("at", flat=True).first(),
        sinks=tuple(_sink(sink.name) for sink in sinks()),
        check=check,
        checked_since=check.at if check is not None else _first_signed_at(),
    )


def _first_signed_at() -> datetime | None:
    return Checkpoint.objects.order_by("size", "id").values_list("at", flat=True).first()


def _sink(name: str) -> SinkStatus:
    """Return the status of a sink. Only deliveries that still wait are counted, as only those have
    an index."""
    waiting = CheckpointDelivery.objects.filter(sink=name, delivered_at=None).aggregate(
        waiting=Count("pk"),
        waiting_since=Min("checkpoint__at"),
        error=Coalesce(Max("error"), Value("")),
    )
    arrived = CheckpointDelivery.objects.filter(sink=name).exclude(delivered_at=None)
    # The newest rows are at the end of the key's index.
    delivered_at = arrived.order_by("-pk").values_list("delivered_at", flat=True).first()
    return SinkStatus(name=name, delivered_at=delivered_at, **waiting)


def newest_check() -> Check | None:
    """Return what the newest verification of the whole trail found."""
    newest = newest_entry(CHECKED)
    if newest is None:
        return None
    seq, body = newest
    try:
        return _check(body)
    except UNREADABLE:
        # The next verification reports the entry.
        row = AuditEntry.objects.get(pk=seq)
        return Check(seq, row.at, row.actor, error=f"Entry {seq}, its result, cannot be read.")


def _check(body: str) -> Check:
    """Parse the entry of a verification. Raises one of UNREADABLE."""
    row, facts = index_row(body), json.loads(body)["facts"]
    if row is None:
        raise ValueError("not an entry")
    if facts.get("error"):
        return Check(row["seq"], row["at"], row["actor"], error=str(facts["error"]))
    return Check(
        seq=row["seq"],
        at=row["at"],
        by=row["actor"],
        ok=facts["ok"],
        verdicts={name: facts["verdicts"][name] for name in ("intact", "anchored", "complete")},
        entries=int(facts["entries"]),
        bad_seq=None if facts["bad_seq"] is None else int(facts["bad_seq"]),
        problems=tuple(map(str, facts["problems"])),
    )
