"""Reads archive files of old entries, and the whole trail in archive files and database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime

from switcher.audit.ledger_reader import BEFORE_ALL, stored_rows
from switcher.audit.verifier.switchboard_verify import (
    ROTATED,
    UNREADABLE,
    Rotation,
    Row,
    Tree,
    read_entry,
)
from switcher.domain.errors import TrailUnreadable
from switcher.models import ArchiveFile, AuditEntry, LedgerRow

CHUNK = 1000


class NotAsSealed(Exception):
    """An archive file is readable, but is not the file that was sealed."""


# -- The rows


def archive_files() -> list[ArchiveFile]:
    """Return all archive files, oldest first."""
    return list(ArchiveFile.objects.order_by("last"))


def newest_archive_file() -> ArchiveFile | None:
    """Return the archive file after which the entries in the database begin."""
    return ArchiveFile.objects.order_by("-last").first()


def archive_file_of(seq: int) -> ArchiveFile | None:
    """Return the archive file that holds an entry."""
    return ArchiveFile.objects.filter(first__lte=seq, last__gte=seq).first()


def archive_file_at(moment: datetime) -> ArchiveFile | None:
    """Return the archive file that holds the entries from a moment."""
    return ArchiveFile.objects.filter(last_at__gt=moment).order_by("last").first()


def last_archived() -> int:
    """Return the number of the last entry in an archive file; 0 if there is none."""
    newest = newest_archive_file()
    return newest.last if newest is not None else 0


def begins_after() -> int:
    """Return the number of the entry before the first one in the database. If nothing was archived,
    this is below every number, so that a row inserted before the first entry is read, too."""
    return last_archived() or BEFORE_ALL


def end_of(file: ArchiveFile) -> tuple[Tree, bytes]:
    """Return the tree and the hash at the end of a file, from which later entries continue. Raises
    TrailUnreadable."""
    try:
        tree, prev = Tree.from_text(file.tree), bytes.fromhex(file.prev)
    except UNREADABLE as exc:
        raise _unreadable(file) from exc
    if tree.size != file.last or any(len(found) != 32 for found in (prev, *tree.peaks)):
        raise _unreadable(file)
    return tree, prev


def rotations_before_end(file: ArchiveFile) -> list[Rotation]:
    """Return all key rotations up to the end of a file. Raises TrailUnreadable."""
    try:
        return [Rotation.from_json(row) for row in file.rotations]
    except UNREADABLE as exc:
        raise _unreadable(file) from exc


def rotations(after: int, upto: int) -> Iterator[Rotation]:
    """Yield the key rotations in the entries above `after`, up to `upto`, oldest first. With them,
    the key before them is enough to verify what follows."""
    newest = newest_archive_file()
    if newest is not None and after < newest.last:
        yield from rotations_before_end(newest)
        after = newest.last
    entries = AuditEntry.objects.filter(kind=ROTATED, seq__gt=after, seq__lte=upto)
    for seq in entries.order_by("seq").values_list("seq", flat=True):
        for body in LedgerRow.objects.filter(pk=seq).values_list("body", flat=True):
            with suppress(*UNREADABLE):  # The verifier reports such an entry.
                yield Rotation.from_json(json.loads(body)["facts"])


def _unreadable(file: ArchiveFile) -> TrailUnreadable:
    return TrailUnreadable(
        f"The audit trail cannot be read: what the database keeps of {file.file_name} was changed "
        "from outside of Switchboard."
    )


# -- The entries


def rows_of(file: ArchiveFile) -> Iterator[list[Row]]:
    """Yield the entries of a file, a chunk at a time. Raises OSError, and NotAsSealed at the
    end."""
    digest, rows = hashlib.sha256(), list[Row]()
    with file.open() as lines:
        for line in lines:
            digest.update(line)
            row = _entry(line.decode("utf-8", "replace"))
            if row is not None:
                rows.append(row)
            if len(rows) == CHUNK:
                yield rows
                rows = []
    if rows:
        yield rows
    if digest.hexdigest() != file.sha256:
        raise NotAsSealed(file.file_name)


def _entry(line: str) -> Row | None:
    if not line.startswith('{"type":"entry"'):
        return None
    try:
        return read_entry(json.loads(line))
    except UNREADABLE:
        return None  # The digest shows that the file was changed.


def all_after(
    after: int, read_file: Callable[[ArchiveFile], Iterator[list[Row]]] = rows_of
) -> Iterator[list[Row]]:
    """Yield the entries in the database above number `after`. If some are archived meanwhile, they
    are read from their archive files with `read_file`, which may raise OSError and NotAsSealed.
    """
    read = after
    while True:
        for rows in stored_rows(read):
            if rows[0][0] > max(0, read) + 1 and last_archived() > max(0, read):
                break  # the first of them are just being removed
            yield rows
            read = max(read, rows[-1][0])
        newer = [file for file in archive_files() if file.last > max(0, read)]
        if not newer:
            return
        for file in newer:
            for rows in read_file(file):
                if fresh := [row for row in rows if row[0] > read]:
                    yield fresh
            read = max(read, file.last)
