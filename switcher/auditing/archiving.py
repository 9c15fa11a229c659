"""Old entries go to sealed files. Each step leaves what is true if the process dies behind it:

1. the file is written beside its place, and flushed to the disk;
2. it is verified there, by the verifier that an auditor has;
3. it takes its place; a file that nothing tells of stays and is overwritten by the next try;
4. one transaction tells of it, from which on these entries count as moved;
5. the moved entries are removed, some at a time; who finds some left goes on.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from switcher.clock import Clock, system
from switcher.errors import SwitcherError
from switcher.evidence.switchboard_verify import Files, Report
from switcher.places import key_files, segment_folder, segment_name
from switcher.queries.export import JSONL, Export, chunks
from switcher.queries.filters import Filters
from switcher.queries.ledger import rotations
from switcher.queries.moments import kept
from switcher.queries.segments import begins_behind, movable, segments
from switcher.records import Actor, checkpoints
from switcher.records.segments import Written, close, remove_moved

log = logging.getLogger(__name__)

# In one segment: a file of some 400 MB, made in some ten seconds.
MOST = 500_000

Tell = Callable[[int, int], object]


class NotArchived(SwitcherError):
    """Nothing was moved; the text says why."""

    code = "not-archived"


@dataclass(frozen=True, slots=True)
class Due:
    """What would be moved: entries up to a number, the newest of them from `at`."""

    first: int
    last: int
    at: datetime

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    @property
    def name(self) -> str:
        return segment_name(self.first, self.last)


def due(before: datetime, most: int = MOST) -> Due | None:
    """What could be moved now, of the entries from before a moment."""
    found = movable(before, most)
    return Due(max(0, begins_behind()) + 1, *found) if found is not None else None


def archive(
    before: datetime,
    actor: Actor,
    clock: Clock = system,
    most: int = MOST,
    tell: Tell = lambda done, total: None,
) -> Due | None:
    """Move the next segment of entries from before a moment; None where there is none. Raises
    NotArchived, TrailBroken, KeyUnusable, OSError, Conflict; then nothing was moved.

    `tell` is called with the entries done and how many there are.
    """
    remove_all_moved()  # what a process that died has left
    found = due(before, most)
    if found is None:
        return None
    folder = segment_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    waiting = folder / f".{found.name}.part"
    try:
        size, sha256 = _write(found, waiting, actor, clock, tell)
        written = _verified(found, waiting, size, sha256)
        waiting.replace(folder / found.name)
    finally:
        waiting.unlink(missing_ok=True)
    _sync(folder)
    close(written, checkpoints.public_key(), kept(found.at), actor, clock)
    remove_all_moved()
    log.info("entries %d to %d were moved to %s", found.first, found.last, found.name)
    return found


def remove_all_moved() -> None:
    """Remove what lies in segments."""
    while remove_moved():
        pass


def _write(found: Due, path: Path, actor: Actor, clock: Clock, tell: Tell) -> tuple[int, str]:
    """Write the file, for its owner to read alone. Returns its bytes and its SHA-256."""
    export = Export(JSONL, Filters(), found.last, actor.name, clock.now())
    digest, size, done = hashlib.sha256(), 0, 0
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o400), "wb") as file:
        for chunk in chunks(export):
            file.write(chunk.data)
            digest.update(chunk.data)
            size, done = size + len(chunk.data), done + chunk.entries
            tell(done, found.count)
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def _verified(found: Due, path: Path, size: int, sha256: str) -> Written:
    """Read it again, by itself: what is removed has to be provable from the file."""
    reader = Files(key_files().root(), part=True)
    with path.open(encoding="utf-8", newline="\n") as lines:
        reader.read(lines)
    report = reader.report()
    _check(report, found)
    return Written(
        first=found.first,
        last=found.last,
        last_at=found.at,
        name=found.name,
        size=size,
        sha256=sha256,
        prev=reader.prev.hex(),
        tree=reader.tree.to_text(),
        root=report.root,
        rotations=list(rotations(found.last)),
    )


def _check(report: Report, found: Due) -> None:
    if not report.ok:
        raise NotArchived(f"What is stored does not verify: {report.problems[0]}")
    if (report.first_seq, report.last_seq, report.last_checkpoint) != (
        found.first,
        found.last,
        found.last,
    ):
        raise NotArchived("The entries changed while they were written.")


def _sync(folder: Path) -> None:
    """So that the file's name survives a loss of power, too."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def orphans() -> tuple[str, ...]:
    """Files in the folder that no segment tells of: of a try that was cut off, or from before the
    database was restored."""
    known = {segment.name for segment in segments()}
    names = {path.name for path in segment_folder().glob("audit-*.jsonl")}
    return tuple(sorted(names - known))
