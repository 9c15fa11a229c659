"""Which model was active on each host at a moment, as the trail tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any, cast

from django.db import connection

from switcher.audit.archive_files import newest_archive_file
from switcher.audit.entries import Line, body_of, facts_of, lines, read_body
from switcher.audit.filters import Filters
from switcher.audit.search import as_stored, distinct, find
from switcher.audit.text_index import ENTRY
from switcher.domain.clock import read_moment
from switcher.domain.states import ENDED, OPEN, WORDS, State
from switcher.models import AuditEntry
from switcher.models.trail import refuse_unreadable

ACTIVATED, ADDED, REMOVED = "host.activated", "host.added", "host.removed"
# Entries of a host behind its last activation that are looked through for later switches, and how
# many of those are read.
LOOK_BACK = 200
MAX_ENDS = 5

_ENDED = {f"switch.{state.value}" for state in ENDED}
_OPEN = {f"switch.{state.value}": state for state in OPEN}
_DONE = f"switch.{State.ACTIVE.value}"


@dataclass(frozen=True, slots=True)
class HostAt:
    """A host at a moment. `proofs` are the entries that tell it."""

    host: str
    model: str
    since: datetime | None
    removed_at: datetime | None
    trouble: str  # why the model may not have answered; empty if nothing speaks against it
    under_way: str  # a switch that ran at that moment
    tried: str  # a later switch that ended without success
    proofs: tuple[Line, ...]
    added: bool = False  # whether the entries tell how it came to be there


@dataclass(frozen=True, slots=True)
class _Marks:
    """The numbers of the entries that tell how a host was."""

    activated: int | None
    removed: int | None
    step: int | None  # the last step of a switch behind the activation
    ends: tuple[int, ...]  # ends of switches behind the activation, the newest first

    @property
    def all(self) -> tuple[int, ...]:
        seqs = (self.activated, self.removed, self.step, *self.ends)
        return tuple(dict.fromkeys(seq for seq in seqs if seq is not None))


def then(moment: datetime) -> tuple[HostAt, ...]:
    """Every host that the trail knew of by then, by name; removed ones included. Only for moments
    whose entries are in the database: those of others lie in `archive_file_at`."""
    moved, stored = _moved(), {found.host: found for found in _stored(moment)}
    hosts = sorted(moved.keys() | stored.keys())
    return tuple(_both(moved.get(host), stored.get(host)) for host in hosts)


def kept(moment: datetime) -> dict[str, Any]:
    """What the entry that tells of a segment keeps of it: each host when the segment ends."""
    return {
        found.host: {
            "model": found.model,
            "since": found.since,
            "removed_at": found.removed_at,
            "trouble": found.trouble,
            "under_way": found.under_way,
            "tried": found.tried,
        }
        for found in then(moment)
    }


def _moved() -> dict[str, HostAt]:
    """Each host as it was when the entries that are stored begin."""
    segment = newest_archive_file()
    told = lines([segment.entry]) if segment is not None else ()
    if not told:
        return {}
    hosts = facts_of(read_body(body_of(told[0].seq))).get("hosts")
    if not isinstance(hosts, dict):
        return {}
    return {host: _as_kept(host, facts_of({"facts": kept}), told) for host, kept in hosts.items()}


def _as_kept(host: str, facts: dict[str, Any], proofs: tuple[Line, ...]) -> HostAt:
    return HostAt(
        host=host,
        model=str(facts.get("model") or ""),
        since=_moment(facts.get("since")),
        removed_at=_moment(facts.get("removed_at")),
        trouble=str(facts.get("trouble") or ""),
        under_way=str(facts.get("under_way") or ""),
        tried=str(facts.get("tried") or ""),
        proofs=proofs,
    )


def _moment(told: object) -> datetime | None:
    """None where a body tells of none, whoever wrote it."""
    try:
        return read_moment(told) if isinstance(told, str) else None
    except ValueError:
        return None


def _both(moved: HostAt | None, stored: HostAt | None) -> HostAt:
    """What the entries tell, and where they do not tell of an activation, what was kept."""
    if moved is None or stored is None:
        return cast(HostAt, stored or moved)
    if stored.since is not None or stored.added:
        return stored
    told = bool(stored.proofs)  # by steps of a switch, or its removal
    return replace(
        stored,
        model=moved.model,
        since=moved.since,
        removed_at=stored.removed_at or moved.removed_at,
        trouble=stored.trouble or moved.trouble,
        under_way=stored.under_way if told else moved.under_way,
        tried=stored.tried if told else moved.tried,
        proofs=(*moved.proofs, *stored.proofs),
    )


def _stored(moment: datetime) -> tuple[HostAt, ...]:
    last = find(Filters(until=moment), 1).seqs
    if not last:
        return ()
    upto, landmarks = last[0], _landmarks(moment, last[0])
    # Another host may have had a name before: what it held is not this one's.
    begun = {host: _begun(landmarks.get(host)) for host in distinct("host")}
    activated = _activated(begun, upto, moment)
    behind = _behind(begun | activated, upto, moment)
    marks_of = {
        host: _marks(landmarks.get(host), activated.get(host), behind.get(host, []))
        for host in begun
    }
    found = {host: m for host, m in marks_of.items() if m.all or host in landmarks}
    told = {line.seq: line for line in lines([s for marks in found.values() for s in marks.all])}
    return tuple(
        replace(_then(host, marks, told), added=bool(begun[host])) for host, marks in found.items()
    )


def _landmarks(moment: datetime, upto: int) -> dict[str, tuple[int, str]]:
    """When a host was last added or removed. Of these there are few."""
    found = dict[str, tuple[int, str]]()
    for kind in (ADDED, REMOVED):  # one by one: so each database takes the index of kinds
        rows = AuditEntry.objects.filter(kind=kind, seq__lte=upto, at__lte=moment)
        for seq, host in rows.order_by("seq").values_list("seq", "host"):
            found[host] = max(found.get(host, (0, "")), (seq, kind))
    return found


def _begun(landmark: tuple[int, str] | None) -> int:
    return landmark[0] if landmark and landmark[1] == ADDED else 0


def _activated(begun: Mapping[str, int], upto: int, moment: datetime) -> dict[str, int]:
    """The entry of each host's last activation."""
    values = [(host, upto, as_stored(moment)) for host in begun]
    return {host: seq for host, seq in _each(_ACTIVATION, values) if seq > begun[host]}


def _behind(
    after: Mapping[str, int], upto: int, moment: datetime
) -> dict[str, list[tuple[int, str]]]:
    """Number and kind of each host's entries behind a number, the newest first."""
    values = [(host, seq, upto, as_stored(moment)) for host, seq in after.items()]
    found = dict[str, list[tuple[int, str]]]()
    for host, seq, kind in sorted(_each(_BEHIND, values), key=itemgetter(1), reverse=True):
        found.setdefault(host, []).append((seq, kind))
    return found


_ACTIVATION = (
    f"SELECT host, seq FROM {ENTRY} WHERE host = %s AND kind = '{ACTIVATED}' "
    "AND seq <= %s AND at <= %s ORDER BY seq DESC LIMIT 1"
)
# One lower bound: of two, SQLite may walk its index down to the wrong one.
_BEHIND = (
    f"SELECT host, seq, kind FROM (SELECT * FROM {ENTRY} WHERE host = %s AND seq > %s "
    f"AND seq <= %s ORDER BY seq DESC LIMIT {LOOK_BACK}) near WHERE at <= %s"
)


def _each(part: str, values: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The same for each host, in one query."""
    if not values:
        return []
    parts = " UNION ALL ".join(f"SELECT * FROM ({part}) h{n}" for n in range(len(values)))
    with refuse_unreadable(ENTRY), connection.cursor() as cursor:
        cursor.execute(parts, [value for row in values for value in row])
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _marks(
    landmark: tuple[int, str] | None, activated: int | None, behind: list[tuple[int, str]]
) -> _Marks:
    steps = [seq for seq, kind in behind if kind in _ENDED or kind in _OPEN]
    ends = [seq for seq, kind in behind if kind in _ENDED]
    return _Marks(
        activated=activated,
        removed=landmark[0] if landmark and landmark[1] == REMOVED else None,
        step=steps[0] if steps else None,
        ends=tuple(ends[:MAX_ENDS]),
    )


def _then(host: str, marks: _Marks, told: Mapping[int, Line]) -> HostAt:
    activated = told.get(marks.activated) if marks.activated else None
    removed = told.get(marks.removed) if marks.removed else None
    step = told.get(marks.step) if marks.step else None
    ends = [told[seq] for seq in marks.ends if seq in told]
    return HostAt(
        host=host,
        model=activated.model if activated else "",
        since=activated.at if activated else None,
        removed_at=removed.at if removed else None,
        trouble=_trouble(ends),
        under_way=_under_way(step),
        tried=_tried(ends),
        proofs=tuple(told[seq] for seq in marks.all if seq in told),
    )


def _trouble(ends: list[Line]) -> str:
    """A switch failed and could not bring back what was there, and none since has."""
    for end in ends:
        if end.degraded:
            return end.sentence
        if end.restored or end.kind == _DONE:
            return ""
    return ""


def _under_way(step: Line | None) -> str:
    state = _OPEN.get(step.kind) if step else None
    if step is None or state is None:
        return ""
    return f"A switch to {step.model} was under way: {WORDS[state].lower()}."


def _tried(ends: list[Line]) -> str:
    newest = ends[0] if ends else None
    if newest is None or newest.degraded or newest.kind == _DONE:
        return ""
    return newest.sentence
