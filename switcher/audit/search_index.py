"""The columns to search by, made again from the ledger, which alone is evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import transaction

from switcher.audit.archive_files import begins_behind
from switcher.audit.ledger import Actor, append, writing
from switcher.audit.ledger_reader import CHUNK, Marks, index_row, newest_seq, stored_rows
from switcher.audit.verifier.switchboard_verify import Row
from switcher.domain.clock import Clock, system
from switcher.models import AuditEntry, Review, SwitchEvent

Tell = Callable[[int, int], object]


def rebuild(
    actor: Actor, tell: Tell = lambda done, total: None, clock: Clock = system
) -> tuple[int, int]:
    """Make every row of the index, and every mark of review, as its entry has it. Returns how many
    were made or changed, and how many told of no entry and were removed. Safe to run beside
    everything else."""
    after = begins_behind()
    marks = Marks("default", after)
    total = newest_seq()
    made = removed = 0
    for rows in stored_rows(after):
        with transaction.atomic():
            made += _put(rows) + _put_marks(marks, rows)
            removed += _remove(after, [row[0] for row in rows])
        after = rows[-1][0]
        tell(after, total)
    with writing():
        # Not those whose entries were appended since the last look: their rows are right.
        removed += AuditEntry.objects.filter(seq__gt=newest_seq()).delete()[0]
        removed += _remove_marks(marks)
        append("audit.index-rebuilt", actor, clock=clock, changed=made, removed=removed)
    return made, removed


def _put(rows: list[Row]) -> int:
    """Write what differs. Who it came from is kept: that is in no body."""
    known = AuditEntry.objects.in_bulk([row[0] for row in rows])
    wanted = {row[0]: index_row(row[1]) for row in rows}
    switches = _switches(wanted)
    fresh, changed = [], []
    for seq, values in wanted.items():
        if values is None or values["seq"] != seq:
            continue  # a broken entry is for the verifier to tell of
        if values["switch_id"] not in switches:
            values["switch_id"] = None
        entry = known.get(seq)
        if entry is None:
            fresh.append(AuditEntry(**values))
        elif any(getattr(entry, name) != value for name, value in values.items()):
            changed.append(AuditEntry(**values, origin_id=entry.origin_id))
    AuditEntry.objects.bulk_create(fresh)
    fields = ("at", "kind", "actor", "host", "switch", "model", "outcome", "reason")
    AuditEntry.objects.bulk_update(changed, fields, batch_size=50)
    return len(fresh) + len(changed)


def _switches(wanted: dict[int, dict[str, Any] | None]) -> set[int]:
    named = {values["switch_id"] for values in wanted.values() if values}
    return set(SwitchEvent.objects.filter(pk__in=named).values_list("pk", flat=True))


def _remove(after: int, numbers: list[int]) -> int:
    between = AuditEntry.objects.filter(seq__gt=after, seq__lte=numbers[-1])
    return between.exclude(seq__in=numbers).delete()[0]


def _put_marks(marks: Marks, rows: list[Row]) -> int:
    missing = marks.add(rows)
    for mark in missing:
        marks.keep(Review.objects.create(**mark._asdict()).pk)
    return len(missing)


def _remove_marks(marks: Marks) -> int:
    untold = [pk for pk, _ in marks.untold()]
    for begin in range(0, len(untold), CHUNK):
        Review.objects.filter(pk__in=untold[begin : begin + CHUNK]).delete()
    return len(untold)
