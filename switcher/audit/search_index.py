"""Rebuilds the search index and the marks of review from the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import transaction

from switcher.audit.archive_files import begins_after
from switcher.audit.ledger import Actor, append, writing
from switcher.audit.ledger_reader import CHUNK, index_row, newest_seq, stored_rows
from switcher.audit.review_marks import MarkComparison
from switcher.audit.verifier.switchboard_verify import Row
from switcher.domain.clock import Clock, system
from switcher.domain.errors import TrailUnreadable
from switcher.models import AuditEntry, Review, SwitchEvent

COLUMNS = ("at", "kind", "actor", "host", "switch_id", "model", "outcome", "reason")
Progress = Callable[[int, int], object]


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
            changed += _write_rows(rows) + _write_marks(marks, rows)
            removed += _remove_between(after, rows)
        after = rows[-1][0]
        progress(after, total)
    with writing():
        # Under the lock on the head, so that rows of entries appended meanwhile are kept.
        removed += AuditEntry.objects.filter(seq__gt=newest_seq()).delete()[0]
        removed += _remove_marks(marks)
        append("audit.index-rebuilt", actor, clock=clock, changed=changed, removed=removed)
    return changed, removed


def _write_rows(rows: list[Row]) -> int:
    """Write the rows that differ. Their origin is kept, since no body holds it."""
    expected = {seq: values for seq, body, _, _ in rows if (values := _columns(seq, body))}
    switches = _existing_switches(expected)
    for values in expected.values():
        if values["switch_id"] not in switches:
            values["switch_id"] = None
    stored = AuditEntry.objects.filter(pk__in=expected)
    seqs = set(stored.values_list("pk", flat=True))
    same = _rows_as_expected(stored.values("pk", *COLUMNS), expected)
    missing = [AuditEntry(**values) for seq, values in expected.items() if seq not in seqs]
    differing = [AuditEntry(**expected[seq]) for seq in sorted(seqs - same)]
    AuditEntry.objects.bulk_create(missing)
    fields = [name.removesuffix("_id") for name in COLUMNS]
    AuditEntry.objects.bulk_update(differing, fields, batch_size=50)
    return len(missing) + len(differing)


def _columns(seq: int, body: str) -> dict[str, Any] | None:
    """Return what an entry's row should hold; None for a broken entry, which the verifier
    reports.
    """
    values = index_row(body)
    return values if values is not None and values["seq"] == seq else None


def _existing_switches(expected: dict[int, dict[str, Any]]) -> set[int]:
    named = {values["switch_id"] for values in expected.values()}
    return set(SwitchEvent.objects.filter(pk__in=named).values_list("pk", flat=True))


def _rows_as_expected(rows: Any, expected: dict[int, dict[str, Any]]) -> set[int]:
    """Return the numbers of the rows that need no change; none if a row cannot be read."""
    try:
        return {
            row["pk"]
            for row in rows
            if all(row[name] == expected[row["pk"]][name] for name in COLUMNS)
        }
    except TrailUnreadable:
        return set()


def _remove_between(after: int, rows: list[Row]) -> int:
    """Remove the rows in this range that have no entry."""
    seqs = [row[0] for row in rows]
    between = AuditEntry.objects.filter(seq__gt=after, seq__lte=seqs[-1])
    return between.exclude(seq__in=seqs).delete()[0]


def _write_marks(marks: MarkComparison, rows: list[Row]) -> int:
    missing = marks.add(rows)
    for mark in missing:
        marks.keep(Review.objects.create(**mark._asdict()).pk)
    return len(missing)


def _remove_marks(marks: MarkComparison) -> int:
    pks = [pk for pk, _ in marks.unrecorded()]
    for begin in range(0, len(pks), CHUNK):
        Review.objects.filter(pk__in=pks[begin : begin + CHUNK]).delete()
    return len(pks)
