"""Compares the search index and the marks of review with the entries that they are derived from.

Index and marks prove nothing, but readers of the pages see nothing else.
"""

from __future__ import annotations

import json
from typing import Any

from switcher.audit.archive_files import begins_after
from switcher.audit.ledger_reader import CHUNK, MAX_SEQ, index_row, salted
from switcher.audit.review_marks import MarkComparison
from switcher.audit.verifier.switchboard_verify import UNREADABLE, Row
from switcher.domain.errors import TrailUnreadable
from switcher.models import AuditEntry, LedgerRow

COLUMNS = ("seq", "at", "kind", "actor", "host", "switch_id", "model", "outcome", "reason")
ORIGIN = ("origin__ip", "origin__agent", "origin__salt", "origin__erased_at")
MAX_NAMED = 10


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
        stored = self._stored(upto)
        differing = [seq for seq, body, _, _ in rows if not _is_same(stored.pop(seq, None), body)]
        differing += stored  # rows without an entry
        differing += [mark.seq for mark in self._marks.add(rows)]
        # The rows of entries that were archived meanwhile are gone, too.
        archived = begins_after() if differing else 0
        for seq in differing:
            if seq > archived:
                self._differs(seq)
        self._last = upto

    def _stored(self, upto: int) -> dict[int, dict[str, Any]]:
        """Return the rows between the last entry and `upto`, leaving out unreadable ones."""
        rows = AuditEntry.objects.filter(seq__gt=self._last, seq__lte=upto)
        rows = rows.values(*COLUMNS, *ORIGIN)
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


def _is_same(row: dict[str, Any] | None, body: str) -> bool:
    expected = index_row(body)
    if row is None or expected is None:
        return False
    if any(row[name] != value for name, value in expected.items()):
        return False
    if row["origin__salt"] is None or row["origin__erased_at"] is not None:
        return True  # unknown or erased: only the body has its hashes
    try:
        salt, hashes = bytes(row["origin__salt"]), json.loads(body)["from"]
        return not hashes or hashes == salted(row["origin__ip"], row["origin__agent"], salt)
    except UNREADABLE:
        return False
