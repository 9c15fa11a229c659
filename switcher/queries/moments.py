"""Which model was active on each host at a moment, as the trail tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from switcher.models import AuditEntry
from switcher.queries.audit import Line, lines
from switcher.queries.filters import Filters
from switcher.queries.finding import distinct, find
from switcher.states import ENDED, OPEN, WORDS, State

ACTIVATED, ADDED, REMOVED = "host.activated", "host.added", "host.removed"
# Entries of a host that are looked through for its last switches, and how many of those are read.
LOOK_BACK = 200
MOST_ENDS = 5

_ENDED = {f"switch.{state.value}" for state in ENDED}
_OPEN = {f"switch.{state.value}": state for state in OPEN}
_DONE = f"switch.{State.ACTIVE.value}"


@dataclass(frozen=True, slots=True)
class Then:
    """A host at a moment. `proofs` are the entries that tell it."""

    host: str
    model: str
    since: datetime | None
    removed_at: datetime | None
    trouble: str  # why the model may not have answered; empty if nothing speaks against it
    under_way: str  # a switch that ran at that moment
    tried: str  # a later switch that ended without success
    proofs: tuple[Line, ...]


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


def then(moment: datetime) -> tuple[Then, ...]:
    """Every host that the trail knew of by then, by name; removed ones included."""
    last = find(Filters(until=moment), 1).seqs
    if not last:
        return ()
    landmarks = _landmarks(moment, last[0])
    found = {}
    for host in distinct("host"):
        marks = _marks(host, moment, last[0], landmarks.get(host))
        if marks.all or host in landmarks:
            found[host] = marks
    told = {line.seq: line for line in lines([s for marks in found.values() for s in marks.all])}
    return tuple(_then(host, marks, told) for host, marks in found.items())


def _landmarks(moment: datetime, upto: int) -> dict[str, tuple[int, str]]:
    """When a host was last added or removed. Of these there are few."""
    found = dict[str, tuple[int, str]]()
    for kind in (ADDED, REMOVED):  # one by one: so each database takes the index of kinds
        rows = AuditEntry.objects.filter(kind=kind, seq__lte=upto, at__lte=moment)
        for seq, host in rows.order_by("seq").values_list("seq", "host"):
            found[host] = max(found.get(host, (0, "")), (seq, kind))
    return found


def _marks(host: str, moment: datetime, upto: int, landmark: tuple[int, str] | None) -> _Marks:
    begun = landmark[0] if landmark and landmark[1] == ADDED else 0
    # Another host may have had this name before: what it held is not this one's.
    rows = AuditEntry.objects.filter(host=host, seq__gte=begun, seq__lte=upto).order_by("-seq")
    activated = rows.filter(kind=ACTIVATED, at__lte=moment).values_list("seq", flat=True).first()
    near = rows.values_list("seq", "kind", "at")[:LOOK_BACK]
    behind = [(s, kind) for s, kind, at in near if at <= moment and s > (activated or 0)]
    steps = [seq for seq, kind in behind if kind in _ENDED or kind in _OPEN]
    ends = [seq for seq, kind in behind if kind in _ENDED]
    return _Marks(
        activated=activated,
        removed=landmark[0] if landmark and landmark[1] == REMOVED else None,
        step=steps[0] if steps else None,
        ends=tuple(ends[:MOST_ENDS]),
    )


def _then(host: str, marks: _Marks, told: Mapping[int, Line]) -> Then:
    activated = told.get(marks.activated) if marks.activated else None
    removed = told.get(marks.removed) if marks.removed else None
    step = told.get(marks.step) if marks.step else None
    ends = [told[seq] for seq in marks.ends if seq in told]
    return Then(
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
