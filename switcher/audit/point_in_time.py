"""Which model was active on each host at a moment, according to the trail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from django.db.models import BooleanField, QuerySet
from django.db.models.expressions import RawSQL

from switcher.audit.archive_files import newest_archive_file
from switcher.audit.entries import Entry, entries
from switcher.audit.filters import Filters
from switcher.audit.ledger_reader import body_of, facts_of, read_body
from switcher.audit.search import distinct_values, matching
from switcher.audit.verifier.switchboard_verify import UNREADABLE
from switcher.domain.clock import read_moment
from switcher.domain.states import ENDED, OPEN, WORDS, State
from switcher.models import AuditEntry

ACTIVATED, ADDED, REMOVED = "host.activated", "host.added", "host.removed"
# How many of a host's entries after its last activation are searched for later switches, and how
# many of the ended switches among them are shown.
MAX_SEARCHED = 200
MAX_ENDS = 5

_ENDED = {f"switch.{state.value}" for state in ENDED}
_OPEN = {f"switch.{state.value}": state for state in OPEN}
_DONE = f"switch.{State.ACTIVE.value}"

# SQLite uses the index of activations only if the value is written in the SQL.
_IS_ACTIVATION = RawSQL(f"kind = '{ACTIVATED}'", (), output_field=BooleanField())


@dataclass(frozen=True, slots=True)
class HostAt:
    """The state of a host at a moment, and the entries that prove it."""

    host: str
    model: str = ""
    since: datetime | None = None
    removed_at: datetime | None = None
    trouble: str = ""  # why the model may not have answered
    under_way: str = ""  # a switch that was running at that moment
    tried: str = ""  # a later switch that ended without success
    proofs: tuple[Entry, ...] = ()
    added: bool = False  # whether the stored entries include its addition


def hosts_at(moment: datetime) -> tuple[HostAt, ...]:
    """Return every host that the trail knew at that time, including removed ones, by name.

    Only for a moment whose entries are in the database. For an earlier one, `archive_file_at`
    returns the file that holds them.
    """
    archived, stored = _archived_hosts(), _stored_hosts(moment)
    names = sorted(archived.keys() | stored.keys())
    return tuple(_combine(archived.get(name), stored.get(name)) for name in names)


# -- Hosts as they were when entries were moved to an archive file

_RECORDED = ("model", "since", "removed_at", "trouble", "under_way", "tried")


def recorded_hosts(moment: datetime) -> dict[str, Any]:
    """Return the state of each host at the end of an archive file, as its entry records it."""
    return {
        found.host: {name: getattr(found, name) for name in _RECORDED} for found in hosts_at(moment)
    }


def _archived_hosts() -> dict[str, HostAt]:
    """Return each host as it was just before the first stored entry."""
    archive = newest_archive_file()
    proofs = entries([archive.entry]) if archive is not None else ()
    if not proofs:
        return {}
    try:
        hosts = facts_of(read_body(body_of(proofs[0].seq))).get("hosts", {})
        return {host: _as_recorded(host, facts, proofs) for host, facts in hosts.items()}
    except UNREADABLE:
        return {}  # The verifier reports the entry.


def _as_recorded(host: str, facts: dict[str, Any], proofs: tuple[Entry, ...]) -> HostAt:
    values: dict[str, Any] = {name: facts[name] for name in _RECORDED if facts.get(name)}
    for name in {"since", "removed_at"} & values.keys():
        values[name] = read_moment(values[name])
    return HostAt(host, **values, proofs=proofs)


def _combine(archived: HostAt | None, stored: HostAt | None) -> HostAt:
    """Return the state from the stored entries or, before their first activation, from the archive
    entry.
    """
    if archived is None or stored is None:
        return cast(HostAt, stored or archived)
    if stored.since is not None or stored.added:
        return stored
    switched = bool(stored.proofs)  # they hold steps of a switch, or the removal
    return replace(
        stored,
        model=archived.model,
        since=archived.since,
        removed_at=stored.removed_at or archived.removed_at,
        trouble=stored.trouble or archived.trouble,
        under_way=stored.under_way if switched else archived.under_way,
        tried=stored.tried if switched else archived.tried,
        proofs=(*archived.proofs, *stored.proofs),
    )


# -- Hosts according to the stored entries


def _stored_hosts(moment: datetime) -> dict[str, HostAt]:
    last = matching(Filters(until=moment)).order_by("-seq").values_list("seq", flat=True).first()
    if last is None:
        return {}
    rows = AuditEntry.objects.filter(seq__lte=last, at__lte=moment).order_by("-seq")
    landmarks = _landmarks(rows)
    seqs = {
        host: _relevant(rows.filter(host=host), *landmarks.get(host, (0, "")))
        for host in distinct_values("host")
    }
    found = {entry.seq: entry for entry in entries([seq for some in seqs.values() for seq in some])}
    return {
        host: _host_at(
            host,
            [found[seq] for seq in some if seq in found],
            added=landmarks.get(host, (0, ""))[1] == ADDED,
        )
        for host, some in seqs.items()
        if some or host in landmarks
    }


def _landmarks(rows: QuerySet[AuditEntry]) -> dict[str, tuple[int, str]]:
    """Return number and kind of the entry by which each host was last added or removed."""
    found = dict[str, tuple[int, str]]()
    for kind in (ADDED, REMOVED):  # one by one, so that each database uses the index of kinds
        for host, seq in rows.filter(kind=kind).values_list("host", "seq"):
            found[host] = max(found.get(host, (0, "")), (seq, kind))
    return found


def _relevant(rows: QuerySet[AuditEntry], landmark: int, kind: str) -> list[int]:
    """Return the numbers of a host's relevant entries. Entries from before it was last added are
    about another host of the same name.
    """
    added = landmark if kind == ADDED else 0
    activations = rows.filter(_IS_ACTIVATION, seq__gt=added)
    activated = activations.values_list("seq", flat=True).first()
    later = rows.filter(seq__gt=activated or added).values_list("seq", "kind")[:MAX_SEARCHED]
    steps = [(seq, kind) for seq, kind in later if kind in _ENDED or kind in _OPEN]
    ends = [seq for seq, kind in steps if kind in _ENDED]
    removed = landmark if kind == REMOVED else None
    seqs = [activated, removed, *(seq for seq, _ in steps[:1]), *ends[:MAX_ENDS]]
    return list(dict.fromkeys(seq for seq in seqs if seq is not None))


def _host_at(host: str, found: Sequence[Entry], added: bool) -> HostAt:
    activated = next((entry for entry in found if entry.kind == ACTIVATED), None)
    removed = next((entry for entry in found if entry.kind == REMOVED), None)
    steps = [entry for entry in found if entry.kind in _ENDED or entry.kind in _OPEN]
    ends = [entry for entry in steps if entry.kind in _ENDED]
    return HostAt(
        host=host,
        model=activated.model if activated else "",
        since=activated.at if activated else None,
        removed_at=removed.at if removed else None,
        trouble=_trouble(ends),
        under_way=_under_way(steps),
        tried=_tried(ends),
        proofs=tuple(found),
        added=added,
    )


def _trouble(ends: list[Entry]) -> str:
    """Describe the newest switch that failed to restore the model, unless a later switch
    succeeded."""
    for end in ends:
        if end.degraded:
            return end.description
        if end.restored or end.kind == _DONE:
            return ""
    return ""


def _under_way(steps: list[Entry]) -> str:
    state = _OPEN.get(steps[0].kind) if steps else None
    if state is None:
        return ""
    return f"A switch to {steps[0].model} was under way: {WORDS[state].lower()}."


def _tried(ends: list[Entry]) -> str:
    if not ends or ends[0].degraded or ends[0].kind == _DONE:
        return ""
    return ends[0].description
