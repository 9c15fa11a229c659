"""Compares the search index and the marks of review with the entries that they are derived from,
and rebuilds both.

Index and marks prove nothing, but readers of the pages see nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.db import transaction

from switcher.audit.archive_files import begins_after
from switcher.audit.ledger import Actor, append, writing
from switcher.audit.ledger_reader import (
    CHUNK,
    MAX_SEQ,
    index_row,
    newest_seq,
    salted,
    stored_rows,
)
from switcher.audit.reviews import MarkComparison
from switcher.audit.verifier.switchboard_verify import UNREADABLE, Row
from switcher.domain.clock import Clock, system
from switcher.domain.errors import TrailUnreadable
from switcher.models import AuditEntry, LedgerRow, Review, SwitchEvent

COLUMNS = ("at", "kind", "actor", "host", "switch_id", "model", "outcome", "reason")
ORIGIN = ("origin__ip", "origin__agent", "origin__salt", "origin__erased_at")
MAX_NAMED = 10

Stored = dict[int, dict[str, Any]]  # rows of the index by their entry's number
Progress = Callable[[int, int], object]


def _stored_between(after: int, upto: int) -> Stored:
    """Return the rows of the index above one number up to another, leaving out unreadable
    ones."""
    rows = AuditEntry.objects.filter(seq__gt=after, seq__lte=upto)
    rows = rows.values("seq", *COLUMNS, *ORIGIN)
    try:
        return {row["seq"]: row for row in rows}
    except TrailUnreadable:
        seqs = list(rows.values_list("seq", flat=True))
    found = {}
    for seq in seqs:
        try:
            found[seq] = rows.get(seq=seq)
        except TrailUnreadable:
            continue
    return found


def _has_columns(row: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in expected.items())


def _has_origin(row: dict[str, Any], body: str) -> bool:
    if row["origin__salt"] is None or row["origin__erased_at"] is not None:
        return True  # unknown or erased: only the body has its hashes
    try:
        salt, hashes = bytes(row["origin__salt"]), json.loads(body)["from"]
        return not hashes or hashes == salted(row["origin__ip"], row["origin__agent"], salt)
    except UNREADABLE:
        return False


# -- Comparing


class IndexComparison:
    """Counts the entries whose index row or mark of review differs: `add` every entry above number
    `after` in order, then get the `result`."""

    def __init__(self, after: int) -> None:
        self._marks = MarkComparison(after)
        self._last = after
        self._count = 0
        self._first: list[int] = []

    def add(self, rows: list[Row]) -> None:
        """Compare the index rows from the last added entry up to the last of these entries."""
        upto = max(row[0] for row in rows)
        stored = _stored_between(self._last, upto)
        differing = []
        for seq, body, _, _ in rows:
            row, expected = stored.pop(seq, {}), index_row(body)
            if expected is None or not _has_columns(row, expected) or not _has_origin(row, body):
                differing.append(seq)
        differing += stored  # rows without an entry
        differing += [mark.seq for mark in self._marks.add(rows)]
        # The rows of entries that were archived meanwhile are gone, too.
        archived = begins_after() if differing else 0
        for seq in differing:
            if seq > archived:
                self._differs(seq)
        self._last = upto

    def result(self) -> tuple[int, tuple[int, ...]]:
        """Return how many entries differ, and the first of them. Entries that were appended
        meanwhile are left out."""
        rows = AuditEntry.objects.filter(seq__gt=self._last, seq__lt=MAX_SEQ).order_by("seq")
        for seq in rows.values_list("seq", flat=True)[:CHUNK]:
            if not LedgerRow.objects.filter(pk=seq).exists():
                self._differs(seq)
        for _, seq in self._marks.unrecorded():
            self._differs(seq)
        return self._count, tuple(sorted(self._first))

    def _differs(self, seq: int) -> None:
        self._count += 1
        if len(self._first) < MAX_NAMED:
            self._first.append(seq)


# -- Rebuilding


def rebuild(
    actor: Actor, progress: Progress = lambda done, total: None, clock: Clock = system
) -> tuple[int, int]:
    """Correct every row of the index and every mark of review according to its entry.

    Return how many rows were created or changed, and how many had no entry and were removed. Safe
    while the server runs.
    """
    after = begins_after()
    marks = MarkComparison(after)
    total = newest_seq()
    changed = removed = 0
    for rows in stored_rows(after):
        with transaction.atomic():
            stored = _stored_between(after, rows[-1][0])
            changed += _write_rows(rows, stored) + _write_marks(marks, rows)
            seqs = [row[0] for row in rows]
            between = AuditEntry.objects.filter(seq__gt=after, seq__lte=seqs[-1])
            removed += between.exclude(seq__in=seqs).delete()[0]
        after = rows[-1][0]
        progress(after, total)
    with writing():
        # Under the lock on the head, so that rows of entries appended meanwhile are kept.
        removed += AuditEntry.objects.filter(seq__gt=newest_seq()).delete()[0]
        pks = [pk for pk, _ in marks.unrecorded()]
        for begin in range(0, len(pks), CHUNK):
            removed += Review.objects.filter(pk__in=pks[begin : begin + CHUNK]).delete()[0]
        append("audit.index-rebuilt", actor, clock=clock, changed=changed, removed=removed)
    return changed, removed


def _write_rows(rows: list[Row], stored: Stored) -> int:
    """Write the rows that differ. Their origin is kept, since no body holds it."""
    expected = {seq: values for seq, body, _, _ in rows if (values := _columns(seq, body))}
    named = {values["switch_id"] for values in expected.values()}
    switches = set(SwitchEvent.objects.filter(pk__in=named).values_list("pk", flat=True))
    for values in expected.values():
        if values["switch_id"] not in switches:
            values["switch_id"] = None
    differing = [
        AuditEntry(**values)
        for seq, values in expected.items()
        if not _has_columns(stored.get(seq, {}), values)
    ]
    fields = [name.removesuffix("_id") for name in COLUMNS]
    AuditEntry.objects.bulk_create(
        differing, update_conflicts=True, unique_fields=["seq"], update_fields=fields
    )
    return len(differing)


def _columns(seq: int, body: str) -> dict[str, Any] | None:
    """Return what an entry's row should hold; None for a broken entry, which the verifier
    reports.
    """
    values = index_row(body)
    return values if values is not None and values["seq"] == seq else None


def _write_marks(marks: MarkComparison, rows: list[Row]) -> int:
    missing = marks.add(rows)
    for mark in missing:
        marks.keep(Review.objects.create(**mark._asdict()).pk)
    return len(missing)
