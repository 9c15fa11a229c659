"""The trail verified as it lies in the database, and its index compared with it."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from switcher.audit.archive_files import ArchiveFile, begins_behind, newest_segment, segments
from switcher.audit.archive_reader import NotTheSame, rows_of, stored_behind
from switcher.audit.index_comparison import IndexComparison
from switcher.audit.ledger_reader import (
    BEFORE_ALL,
    newest_seq,
    stored_notes,
)
from switcher.audit.paths import anchors, key_files
from switcher.audit.signing_keys import KeyRefused
from switcher.audit.verifier.switchboard_verify import (
    GENESIS,
    ROTATED,
    UNREADABLE,
    BadNote,
    Note,
    PublicKey,
    Report,
    Rotation,
    Row,
    Tree,
    Verifier,
    read_anchors,
)
from switcher.models import AuditEntry, LedgerRow

# So many anchors are put into their order before they are used. They are in order already but for
# a few that were delivered again.
WINDOW = 4096

Tell = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Verified:
    """The verdicts, and where it was compared, which entries the index tells otherwise."""

    report: Report
    index_differs: int | None = None
    index_first: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        return self.report.ok and not self.index_differs

    def to_json(self) -> dict[str, Any]:
        told = self.report.to_json() | {"ok": self.ok}
        if self.index_differs is None:
            return told
        return told | {"index_differs": self.index_differs, "index_first": list(self.index_first)}


def verify(
    tell: Tell = lambda done, total: None, index: bool = False, using: str = "default"
) -> Verified:
    """Verify the stored entries against the checkpoints, the anchors and the public keys.

    `tell` is called with the entries done and how many there were at the beginning; `index`
    compares the columns to search by with the bodies as well. Memory is constant.
    """
    verifier = Verifier(Tree(), GENESIS, _roots())
    notes = _notes(verifier, using)
    coming = next(notes, None)  # before any entry: what is signed later is over more
    moved = _readable(verifier, segments(using))
    after = moved[-1].last if moved else BEFORE_ALL
    total = newest_seq(using)
    compared = IndexComparison(using, after) if index else None
    for rows in _rows(verifier, moved, using):
        while coming is not None and size_of(coming) <= verifier.size + len(rows):
            verifier.expect(coming)
            coming = next(notes, None)
        verifier.add(rows)
        if compared is not None and rows[-1][0] > after:
            compared.add(rows)
        tell(verifier.size, total)
    while coming is not None:
        verifier.expect(coming)
        coming = next(notes, None)
    if compared is None:
        return Verified(verifier.report())
    differs, first = compared.result()
    return Verified(verifier.report(), differs, first)


def _rows(verifier: Verifier, moved: tuple[ArchiveFile, ...], using: str) -> Iterator[list[Row]]:
    """All entries: those in segments, then those in the database, and those that are moved to
    segments meanwhile."""
    for segment in moved:
        if segment.last >= verifier.size:
            yield from _of_file(verifier, segment)
    read = moved[-1].last if moved else BEFORE_ALL
    met = list(moved)
    for part in stored_behind(read, using):
        if not isinstance(part, ArchiveFile):
            yield part
            read = max(read, part[-1][0])
            continue
        met.append(part)
        for rows in _of_file(verifier, part):
            if fresh := [row for row in rows if row[0] > read]:
                yield fresh
        read = max(read, part.last)
    for segment in met:
        root = segment.tree.root().hex()
        if not verifier.says_archived(segment.first, segment.last, segment.sha256, root):
            span = f"entries {segment.first} to {segment.last} were moved to {segment.name}"
            verifier.fail("complete", f"No signed entry says that {span}.")


def _readable(verifier: Verifier, found: tuple[ArchiveFile, ...]) -> tuple[ArchiveFile, ...]:
    """Those that say at least which file it is. What cannot be read is told to the verifier."""
    for segment in found:
        if segment.damage:
            text = f"What the database keeps of {segment.name} cannot be read: {segment.damage}."
            verifier.fail("complete", text)
    return tuple(segment for segment in found if segment.last)


def _of_file(verifier: Verifier, segment: ArchiveFile) -> Iterator[list[Row]]:
    """The entries of a segment. What is wrong with it is told to the verifier."""
    try:
        yield from rows_of(segment)
    except OSError as exc:
        why = f"Entries {segment.first} to {segment.last} lie in {segment.path}: {exc.strerror}."
        _skip(verifier, segment, why)
    except NotTheSame:
        text = f"{segment.name} is not the file that was sealed."
        verifier.fail("intact", text)
        if verifier.size != segment.last:
            _skip(verifier, segment, f"{text} It does not end with entry {segment.last}.")


def _skip(verifier: Verifier, segment: ArchiveFile, why: str) -> None:
    """Go on behind it. The tree that its row tells of is not believed: its root is in the
    checkpoints that follow; nor are the changes of key: both keys signed them."""
    for rotation in segment.changes_of_key():
        verifier.rotated_before(rotation)
    if segment.tree.size:
        verifier.skip(segment.tree, segment.prev, why)
    else:
        verifier.fail("complete", why)


def _roots() -> list[PublicKey]:
    try:
        return key_files().root()
    except KeyRefused:
        return []  # no checkpoint is believed then, and the verdict says so


def size_of(note: str) -> int:
    """What a note says it is over; 0 where it is no checkpoint at all."""
    try:
        return Note.parse(note).size
    except BadNote:
        return 0


def _notes(verifier: Verifier, using: str) -> Iterator[str]:
    """The notes of the database and of the anchors, by size, each one once."""
    stored = _sorted(_stored_notes(verifier, using))
    anchored = _sorted(read_anchors(_lines_until_now(anchors())))
    last = ""
    for _, note in heapq.merge(stored, anchored):
        if note != last:
            yield note
        last = note


def _stored_notes(verifier: Verifier, using: str) -> Iterator[str]:
    """A row that has another size than its note is told to the verifier."""
    for kept, note in stored_notes(using=using):
        told = size_of(note)
        if told not in (0, kept):
            text = f"A checkpoint over {told} entries is kept as one over {kept}."
            verifier.fail("anchored", text)
        yield note


def _lines_until_now(path: Path | None) -> Iterator[str]:
    """The lines that a file has now, read as they are needed."""
    if path is None or not path.exists():
        return
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (line := file.readline()):
            left -= len(line)
            yield line.decode("utf-8", "replace")


def _sorted(notes: Iterable[str]) -> Iterator[tuple[int, str]]:
    """By size, as long as none is more than WINDOW places from where it belongs."""
    iterator = iter(notes)
    heap = [(size_of(note), note) for note in islice(iterator, WINDOW)]
    heapq.heapify(heap)
    for note in iterator:
        yield heapq.heappushpop(heap, (size_of(note), note))
    while heap:
        yield heapq.heappop(heap)


def rotations(upto: int) -> Iterator[dict[str, str]]:
    """The changes of key in the first `upto` entries, oldest first: what a part of the trail that
    begins behind them needs to be verified with the first key."""
    segment = newest_segment()
    if segment is not None:
        yield from segment.rotations
    seqs = AuditEntry.objects.filter(kind=ROTATED, seq__lte=upto, seq__gt=begins_behind())
    seqs = seqs.order_by("seq")
    for seq in seqs.values_list("seq", flat=True):
        for body in LedgerRow.objects.filter(pk=seq).values_list("body", flat=True):
            with suppress(*UNREADABLE):  # what tells of none is for the verifier to name
                yield Rotation.from_json(json.loads(body)["facts"]).to_json()
