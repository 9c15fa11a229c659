"""Marks of review by auditors. Each mark is an entry of its own, and a row to search by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Max

from switcher.audit.ledger import Actor, append, writing
from switcher.audit.ledger_reader import BEFORE_ALL, CHUNK, MAX_SEQ
from switcher.audit.verifier.switchboard_verify import UNREADABLE, Row
from switcher.domain.clock import Clock, read_moment, system
from switcher.domain.errors import BadRequest, Conflict, NotFound, TrailUnreadable
from switcher.models import AuditEntry, LedgerRow, Review

REVIEWED = "audit.reviewed"
MAX_AT_ONCE = 100
MAX_NOTE = 500
# Earlier versions stamped a mark a moment before its entry.
_MAX_APART = timedelta(seconds=10)


def review(seqs: Iterable[int], actor: Actor, note: str = "", clock: Clock = system) -> int:
    """Mark entries as reviewed by this person, and return how many were not marked before.

    Raises BadRequest, NotFound, and Conflict if all were marked or one is the person's own.
    """
    numbers = sorted(set(seqs))
    _check(numbers, note)
    with writing():
        hashes = _hashes(numbers)
        _check_not_own(numbers, actor)
        marked = Review.objects.filter(seq__in=numbers, by=actor.name)
        new = sorted(set(numbers) - set(marked.values_list("seq", flat=True)))
        if not new:
            raise Conflict("You have reviewed them already.")
        reviewed = [{"hash": hashes[seq], "seq": seq} for seq in new]
        entry = append(REVIEWED, actor, clock=clock, reason=note, entries=reviewed)
        Review.objects.bulk_create(
            Review(seq=seq, by=actor.name, at=entry.at, note=note) for seq in new
        )
    return len(new)


def _check(numbers: list[int], note: str) -> None:
    if not numbers:
        raise BadRequest("Select the entries that you have reviewed.")
    if len(numbers) > MAX_AT_ONCE:
        raise BadRequest(f"At most {MAX_AT_ONCE} entries can be marked at once.")
    if "\0" in note:
        raise BadRequest("A note is plain text.", "note")
    if len(note) > MAX_NOTE:
        raise BadRequest(f"A note has at most {MAX_NOTE} characters.", "note")


def _hashes(numbers: list[int]) -> dict[int, str]:
    """Return the hashes of the entries: a mark names the text that was reviewed, not only its
    number."""
    rows = LedgerRow.objects.filter(pk__in=numbers).values_list("seq", "hash")
    hashes = {seq: bytes(entry_hash).hex() for seq, entry_hash in rows}
    missing = [seq for seq in numbers if seq not in hashes]
    if missing:
        raise NotFound(f"There is no entry {missing[0]}.")
    return hashes


def _check_not_own(numbers: list[int], actor: Actor) -> None:
    own = AuditEntry.objects.filter(seq__in=numbers, actor=actor.name).order_by("seq")
    seq = own.values_list("seq", flat=True).first()
    if seq is not None:
        raise Conflict(f"Entry {seq} is your own. Somebody else has to review it.")


# -- Comparing the rows with the entries


class ReviewMark(NamedTuple):
    """A mark that an auditor has reviewed an entry. It is recorded by an entry, and also stored as
    a row for searching."""

    seq: int
    by: str
    at: datetime
    note: str

    @classmethod
    def of(cls, row: Review) -> ReviewMark:
        """Return the mark that a row holds."""
        return cls(row.seq, row.by, row.at, row.note)

    def is_same(self, other: ReviewMark) -> bool:
        """Return whether a row matches what an entry records."""
        apart = abs(self.at - other.at)
        return self[:2] == other[:2] and self.note == other.note and apart <= _MAX_APART


def marks_in(body: str) -> list[ReviewMark]:
    """Return the marks that an entry's body records; none if it is not the entry of a review."""
    if f'"kind":"{REVIEWED}"' not in body:
        return []
    try:
        recorded = json.loads(body)
        if recorded["kind"] != REVIEWED:
            return []
        by, at, note = recorded["actor"], read_moment(recorded["at"]), recorded["reason"]
        seqs = [int(entry["seq"]) for entry in recorded["facts"]["entries"]]
    except UNREADABLE:
        return []  # The verifier names such an entry.
    return [ReviewMark(seq, str(by), at, str(note)) for seq in seqs]


class MarkComparison:
    """Finds the rows of reviews that differ from the entries: `add` every entry above `after` in
    order, then get `unrecorded`. Marks that are made meanwhile are left out.

    Marks on archived entries are not checked: the entry that records them may be archived, too.
    """

    def __init__(self, after: int) -> None:
        self._rows = Review.objects.all()
        self._after = after
        self._newest = self._rows.aggregate(newest=Max("pk"))["newest"] or 0
        self._recorded: set[int] = set()  # keys of rows that an entry records

    def add(self, rows: Iterable[Row]) -> list[ReviewMark]:
        """Check the marks that these entries record, and return those without a row."""
        marks = [mark for row in rows for mark in marks_in(row[1]) if mark.seq > self._after]
        missing = {mark[:2]: mark for mark in marks}
        for pk, row in self._rows_of({seq for seq, _ in missing}):
            mark = missing.get(row[:2])
            if mark is not None and mark.is_same(row):
                self._recorded.add(pk)
                del missing[row[:2]]
        return list(missing.values())

    def _rows_of(self, seqs: set[int]) -> list[tuple[int, ReviewMark]]:
        if not seqs:
            return []
        rows = self._rows.filter(seq__in=seqs).order_by("pk")
        try:
            return [(row.pk, ReviewMark.of(row)) for row in rows]
        except TrailUnreadable:
            return []  # Treated as missing: `rebuild` recreates them.

    def keep(self, pk: int) -> None:
        """Count a row that was just made from an entry as recorded."""
        self._recorded.add(pk)

    def unrecorded(self) -> Iterator[tuple[int, int]]:
        """Yield the keys of rows that no entry records, and the entries that they mark."""
        last = BEFORE_ALL
        rows = self._rows.filter(
            seq__gt=self._after, seq__lt=MAX_SEQ, pk__lte=self._newest
        ).order_by("pk")
        while chunk := list(rows.filter(pk__gt=last).values_list("pk", "seq")[:CHUNK]):
            yield from ((pk, seq) for pk, seq in chunk if pk not in self._recorded)
            last = chunk[-1][0]
