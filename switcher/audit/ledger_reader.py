"""The ledger as it is stored, and what its index holds of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, connections
from django.db.models import Max, OuterRef, Q, Subquery

from switcher.audit.verifier.switchboard_verify import UNREADABLE, Row
from switcher.domain.clock import read_moment
from switcher.domain.states import ENDED
from switcher.models import AuditEntry, Checkpoint, LedgerRow, Review

CHUNK = 1000
BEFORE_ALL = -(2**63)
# No entry has a number as high. What is no number SQLite sorts behind all numbers.
MAX_SEQ = 2**62

_NEWEST = "SELECT max(seq) FROM switcher_ledgerrow WHERE seq < %s"
_ORDER = f"FROM switcher_ledgerrow WHERE seq > %s ORDER BY seq LIMIT {CHUNK}"
_POSTGRES = f"SELECT seq, coalesce(body, ''), coalesce(prev, ''), coalesce(hash, '') {_ORDER}"
# A column of SQLite holds whatever somebody puts into it: the types are forced.
_HASHES = "coalesce(CAST(prev AS BLOB), x''), coalesce(CAST(hash AS BLOB), x'')"
_SQLITE = f"SELECT seq, coalesce(CAST(body AS BLOB), x''), {_HASHES} {_ORDER}"
_BETWEEN = "FROM switcher_ledgerrow WHERE seq > %s AND seq <= %s ORDER BY seq"
_HASHES_BETWEEN = {
    "sqlite": f"SELECT seq, CAST(hash AS BLOB) {_BETWEEN}",
    "postgresql": f"SELECT seq, hash {_BETWEEN}",
}


def stored_rows(after: int = BEFORE_ALL, using: str = "default") -> Iterator[list[Row]]:
    """All entries behind number `after`, in their order, some at a time: in constant memory, and
    whatever was done to them.

    By their numbers and not in one long query: no reading holds back SQLite's checkpoints of its
    own log, or PostgreSQL's vacuum. Entries that are appended meanwhile come, too.
    """
    vendor = connections[using].vendor
    last: Any = after
    while True:
        rows = _sqlite(last, using) if vendor == "sqlite" else _fetch(_POSTGRES, last, using)
        if not rows:
            return
        last = rows[-1][0]
        yield rows if type(last) is int else [_as_numbered(row) for row in rows]


def newest_seq(using: str = "default") -> int:
    """The number of the last entry; 0 if there is none."""
    with connections[using].cursor() as cursor:
        cursor.execute(_NEWEST, [MAX_SEQ])
        return int(cursor.fetchone()[0] or 0)


def newest_checkpoint(upto: int | None = None) -> Checkpoint | None:
    """The checkpoint over the most entries, of those over `upto` at most; of the same size, the
    newest."""
    rows = Checkpoint.objects.filter(size__lt=MAX_SEQ if upto is None else upto + 1)
    return rows.order_by("-size", "-id").first()


def stored_notes(
    above: int = -1, upto: int = MAX_SEQ - 1, using: str = "default"
) -> Iterator[tuple[int, str]]:
    """Sizes and notes of the checkpoints that there are now, over more than `above` entries and
    `upto` at most, by size. Some at a time: a long query would hold back the database's own
    housekeeping."""
    newest = Checkpoint.objects.using(using).aggregate(newest=Max("pk"))["newest"] or 0
    rows = Checkpoint.objects.using(using).filter(pk__lte=newest, size__lte=upto)
    size, pk = above, newest
    while True:
        behind = rows.filter(Q(size__gt=size) | Q(size=size, pk__gt=pk)).order_by("size", "pk")
        some = list(behind.values_list("size", "pk", "note")[:CHUNK])
        if not some:
            return
        yield from ((kept, note) for kept, _, note in some)
        size, pk, _ = some[-1]


class LedgerHit(NamedTuple):
    """An entry found by its columns, and its body, the evidence: empty where it has none."""

    seq: int
    at: datetime
    actor: str
    body: str


def newest_told(*kinds: str, **columns: str) -> LedgerHit | None:
    """The newest entry of these kinds, and of these values of its other columns. In one query:
    entries are moved away at any time."""
    body = LedgerRow.objects.filter(pk=OuterRef("seq")).values("body")
    rows = AuditEntry.objects.filter(kind__in=kinds, seq__lt=MAX_SEQ, **columns).order_by("-seq")
    row = rows.annotate(body_text=Subquery(body)).values_list("seq", "at", "actor", "body_text")
    found = row.first()
    return LedgerHit(*found[:3], found[3] or "") if found is not None else None


def stored_hashes(begin: int, end: int) -> list[tuple[int, bytes]]:
    """Number and hash of the entries behind number `begin`, up to `end`, in their order."""
    with connection.cursor() as cursor:
        cursor.execute(_HASHES_BETWEEN[connection.vendor], [begin, end])
        return [(seq, bytes(found or b"")) for seq, found in cursor.fetchall()]


def _sqlite(last: Any, using: str) -> list[Row]:
    """A body that is no UTF-8 any more is read all the same, and is then not what was hashed."""
    rows: list[Any] = _fetch(_SQLITE, last, using)
    return [(seq, body.decode("utf-8", "surrogateescape"), *rest) for seq, body, *rest in rows]


def _fetch(sql: str, last: Any, using: str) -> list[Row]:
    with connections[using].cursor() as cursor:
        cursor.execute(sql, [last])
        rows: list[Row] = cursor.fetchall()
    return rows


def _as_numbered(row: Any) -> Row:
    """SQLite sorts what is no number behind all numbers."""
    seq, body, prev, entry_hash = row
    return (seq if isinstance(seq, int) else 0, body, prev, entry_hash)


# -- The index

_ENDED = {state.value for state in ENDED}


def columns(kind: str, reason: str, facts: dict[str, Any]) -> dict[str, str]:
    """What an entry is found by, beside its own fields."""
    state = kind.removeprefix("switch.")
    return {
        "model": str(facts.get("model") or "")[:200],
        "outcome": state if kind.startswith("switch.") and state in _ENDED else "",
        "reason": reason[:500],
    }


def index_row(body: str) -> dict[str, Any] | None:
    """The columns of the index as a body has them; None where it is no body."""
    try:
        told = json.loads(body)
        return {
            "seq": told["seq"],
            "at": read_moment(told["at"]),
            "kind": told["kind"],
            "actor": told["actor"],
            "host": told["host"],
            "switch_id": told["switch"],
            **columns(told["kind"], told["reason"], told["facts"]),
        }
    except UNREADABLE:
        return None


# -- Marks of review

REVIEWED = "audit.reviewed"
# Earlier versions stamped a mark a moment before its entry.
_STAMPED_APART = timedelta(seconds=10)


class Mark(NamedTuple):
    """That somebody has looked at an entry: told by an entry, kept as a row to search by."""

    seq: int
    by: str
    at: datetime
    note: str

    def is_same(self, other: Mark) -> bool:
        """Whether a row is what an entry tells."""
        apart = abs(self.at - other.at)
        return self[:2] == other[:2] and self.note == other.note and apart <= _STAMPED_APART


def marks_in(body: str) -> list[Mark]:
    """The marks that a body tells of; none where it is no entry of a review."""
    if f'"kind":"{REVIEWED}"' not in body:
        return []
    try:
        told = json.loads(body)
        if told["kind"] != REVIEWED:
            return []
        by, at, note = str(told["actor"]), read_moment(told["at"]), str(told["reason"])
        return [Mark(int(entry["seq"]), by, at, note) for entry in told["facts"]["entries"]]
    except UNREADABLE:
        return []  # a broken entry is for the verifier to tell of


class Marks:
    """Which rows are what an entry tells, and which are not: `add` all entries behind `after` in
    their order, and ask then. Marks that are made meanwhile are left out.

    Of marks of entries that were moved to files nothing is said: what tells of them may be there.
    """

    def __init__(self, using: str, after: int) -> None:
        self._rows = Review.objects.using(using)
        self._after = after
        self._upto = self._rows.aggregate(newest=Max("pk"))["newest"] or 0
        self._told: set[int] = set()  # rows that an entry tells of, by their keys

    def add(self, rows: Iterable[Row]) -> list[Mark]:
        """Look for what these entries tell of; gives what is not there."""
        found = [mark for row in rows for mark in marks_in(row[1]) if mark.seq > self._after]
        wanted = {mark[:2]: mark for mark in found}
        if not wanted:
            return []
        for row in self._rows.filter(seq__in={seq for seq, _ in wanted}).order_by("pk"):
            mark = wanted.get((row.seq, row.by))
            if mark is not None and mark.is_same(Mark(row.seq, row.by, row.at, row.note)):
                self._told.add(row.pk)
                del wanted[row.seq, row.by]
        return list(wanted.values())

    def keep(self, pk: int) -> None:
        """A row that was just made of what an entry tells."""
        self._told.add(pk)

    def untold(self) -> Iterator[tuple[int, int]]:
        """Rows that no entry tells of: their keys, and the entries that they are on."""
        last = -(2**63)
        rows = self._rows.filter(seq__gt=self._after, pk__lte=self._upto).order_by("pk")
        while some := list(rows.filter(pk__gt=last).values_list("pk", "seq")[:CHUNK]):
            yield from ((pk, seq) for pk, seq in some if pk not in self._told)
            last = some[-1][0]


def salted(ip: str | None, agent: str, salt: bytes) -> dict[str, str]:
    """What a body holds of an address and a browser."""
    values = {"ip": str(ip or ""), "agent": agent}
    return {k: hashlib.sha256(salt + v.encode()).hexdigest() for k, v in values.items() if v}
