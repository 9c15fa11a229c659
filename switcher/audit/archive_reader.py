"""Entries across the database and the sealed files that old ones were moved to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from datetime import datetime

from switcher.audit.archive_files import ArchiveFile, begins_behind, last_moved, segments
from switcher.audit.ledger_reader import MAX_SEQ, stored_rows
from switcher.audit.verifier.switchboard_verify import UNREADABLE, Row
from switcher.domain.states import OPEN
from switcher.models import AuditEntry, Checkpoint, SwitchEvent

AT_ONCE = 1000


def movable(before: datetime, most: int) -> tuple[int, datetime] | None:
    """Number and time of the last entry that may be moved, of those from before a moment and of
    `most` at once, if there are checkpoints as close as that; None where there is none.

    A segment ends where a checkpoint does, so that it proves itself; and a switch that is open
    keeps its entries here.
    """
    begin = last_moved()
    young = AuditEntry.objects.filter(seq__gt=begin, at__gte=before).order_by("seq")
    open_ones = AuditEntry.objects.filter(
        seq__gt=begin, switch__in=SwitchEvent.objects.filter(state__in=sorted(OPEN))
    ).order_by("seq")
    ends = [MAX_SEQ]
    for rows in (young, open_ones):
        first = rows.values_list("seq", flat=True).first()
        if first is not None:
            ends.append(first - 1)
    ended = Checkpoint.objects.filter(size__gt=begin, size__lte=min(ends))
    sizes = ended.order_by("size").values_list("size", flat=True)
    size = sizes.filter(size__lte=begin + most).last()
    if size is None:
        size = sizes.first()  # the least there can be
    if size is None:
        return None
    at = AuditEntry.objects.filter(seq__lte=size).order_by("-seq").values_list("at", flat=True)
    newest = at.first()
    return None if newest is None else (size, newest)


def holds_more_than(kinds: Collection[str], first: int, last: int) -> bool:
    """Whether some of these entries are of other kinds."""
    rows = AuditEntry.objects.filter(seq__gte=first, seq__lte=last)
    return rows.exclude(kind__in=kinds).exists()


class NotTheSame(Exception):
    """A segment's file is not the one that was sealed."""


def stored_behind(after: int, using: str = "default") -> Iterator[list[Row] | ArchiveFile]:
    """The entries that are stored behind number `after`. Where some are moved while they are read,
    the segments that have them come instead: go on there behind what was read."""
    read = after
    while True:
        for rows in stored_rows(read, using):
            if rows[0][0] > max(0, read) + 1 and begins_behind(using) > max(0, read):
                break  # from the first on they are removed
            yield rows
            read = max(read, rows[-1][0])
        newer = [segment for segment in segments(using) if segment.last > max(0, read)]
        if not newer:
            return
        yield from newer
        read = newer[-1].last


def all_behind(after: int) -> Iterator[list[Row]]:
    """The same with the entries of those segments. Raises OSError, NotTheSame."""
    read = after
    for part in stored_behind(after):
        for rows in rows_of(part) if isinstance(part, ArchiveFile) else [part]:
            fresh = [row for row in rows if row[0] > read]
            if fresh:
                yield fresh
                read = fresh[-1][0]


def rows_of(segment: ArchiveFile) -> Iterator[list[Row]]:
    """The entries of a segment's file, some at a time. Raises OSError, and NotTheSame, at the end
    where the file is readable but another."""
    digest, rows = hashlib.sha256(), list[Row]()
    with segment.open() as file:
        for line in file:
            digest.update(line)
            row = _entry(line)
            if row is not None:
                rows.append(row)
            if len(rows) == AT_ONCE:
                yield rows
                rows = []
    if rows:
        yield rows
    if digest.hexdigest() != segment.sha256:
        raise NotTheSame(segment.name)


def _entry(line: bytes) -> Row | None:
    if not line.startswith(b'{"type":"entry"'):
        return None
    try:
        told = json.loads(line)
        prev, entry_hash = bytes.fromhex(told["prev"]), bytes.fromhex(told["hash"])
        return (int(told["seq"]), str(told["body"]), prev, entry_hash)
    except UNREADABLE:
        return None  # then the file is another, which its digest tells
