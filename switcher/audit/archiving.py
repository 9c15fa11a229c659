"""Old entries go to sealed files. Each step leaves what is true if the process dies behind it:

1. the file is written beside its place, and flushed to the disk;
2. it is verified there, by the verifier that an auditor has;
3. it takes its place, where no other file may be; the next try uses one that nothing tells of;
4. one transaction tells of it, from which on these entries count as moved;
5. the moved entries are removed, some at a time; who finds some left goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from switcher.audit.archive_files import last_moved, newest_segment, open_regular, segments
from switcher.audit.archive_reader import holds_more_than, movable
from switcher.audit.archive_records import (
    ANOTHER_MOVES,
    Busy,
    Written,
    alone,
    close,
    is_moved_left,
    remove_moved,
)
from switcher.audit.export import JSONL, Export, chunks
from switcher.audit.filters import Filters
from switcher.audit.ledger import Actor
from switcher.audit.paths import key_files, segment_folder, segment_name
from switcher.audit.point_in_time import kept
from switcher.audit.signing_keys import sync_folder
from switcher.audit.verification import rotations
from switcher.audit.verifier.switchboard_verify import UNREADABLE, ChainReader, Report
from switcher.domain.clock import Clock, system
from switcher.domain.errors import Conflict, SwitcherError

log = logging.getLogger(__name__)

# In one segment: a file of some 400 MB, made in some ten seconds.
MOST = 500_000

TELL_EVERY = 1000  # lines

# Those that are made by themselves.
EVERY = timedelta(days=1)
UPKEEP = ("audit.archived", "audit.checked", "audit.alarm", "audit.seal-remade")

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
    return Due(last_moved() + 1, *found) if found is not None else None


def archive(
    before: datetime,
    actor: Actor,
    clock: Clock = system,
    most: int = MOST,
    tell: Tell = lambda done, total: None,
) -> Due | None:
    """Move the next segment of entries from before a moment; None where there is none. Raises
    NotArchived, TrailBroken, KeyUnusable, OSError, Conflict; then nothing was moved.

    `tell` is called with the entries done and how many there are, and once more before the
    file takes its place; what it raises leaves all as it was.
    """
    if due(before, most) is None and not is_moved_left():
        return None
    with _alone():
        remove_all_moved()  # what a process that died has left
        found = due(before, most)
        if found is not None:
            _move(found, actor, clock, tell)
    return found


def archive_on_schedule(
    before: datetime,
    actor: Actor,
    clock: Clock = system,
    tell: Tell = lambda done, total: None,
) -> Due | None:
    """The same where it is worth a file, and where nobody else is at it: for who asks often."""
    if not is_moved_left() and not _is_worth_it(before, clock):
        return None
    try:
        return archive(before, actor, clock, tell=tell)
    except Busy:
        return None


def _is_worth_it(before: datetime, clock: Clock) -> bool:
    """A segment a day, unless a full one is due; none of what the trail tells of its own upkeep:
    that a segment was made is an entry, which would be a reason to make the next."""
    newest = newest_segment()
    recent = newest is not None and abs(clock.now() - newest.at) < EVERY
    found = due(before, most=sys.maxsize if recent else MOST)
    if found is None or (recent and found.count < MOST):
        return False
    return holds_more_than(UPKEEP, found.first, found.last)


def _move(found: Due, actor: Actor, clock: Clock, tell: Tell) -> None:
    folder = segment_folder()
    path = folder / found.name
    if os.path.lexists(path):
        written = _verified(found, path, tell)  # of a try that was cut off here
    else:
        waiting = folder / f".{found.name}.{secrets.token_hex(4)}.part"
        try:
            _write(found, waiting, actor, clock, tell)
            written = _verified(found, waiting, tell)
            tell(found.count, found.count)
            _place(waiting, path)
        finally:
            waiting.unlink(missing_ok=True)
    sync_folder(folder)
    close(written, kept(found.at), actor, clock)
    remove_all_moved()
    log.info("entries %d to %d were moved to %s", found.first, found.last, found.name)


def remove_all_moved() -> None:
    """Remove what lies in segments."""
    while remove_moved():
        pass


@contextmanager
def _alone() -> Iterator[None]:
    """Whoever moves entries is alone: on this folder, and in this database. Raises Conflict."""
    folder = segment_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600), "rb") as lock, alone():
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Busy(ANOTHER_MOVES) from exc
        for left in folder.glob(".audit-*.part"):
            left.unlink(missing_ok=True)
        yield


def _write(found: Due, path: Path, actor: Actor, clock: Clock, tell: Tell) -> None:
    """Write the file, for its owner to read alone."""
    export = Export(JSONL, Filters(), newest_segment(), found.last, actor.name, clock.now())
    done = 0
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        for chunk in chunks(export):
            file.write(chunk.data)
            done += chunk.entries
            tell(done, found.count)
        file.flush()
        os.fsync(file.fileno())


def _place(waiting: Path, path: Path) -> None:
    """Give the file its name, unless there is one. A link never replaces a file; where there are
    no links, nobody else should be here anyway."""
    try:
        os.link(waiting, path)
    except FileExistsError as exc:
        raise Conflict(f"{path.name} appeared meanwhile.") from exc
    except OSError:
        if os.path.lexists(path):
            raise Conflict(f"{path.name} appeared meanwhile.") from None
        waiting.rename(path)


def _verified(found: Due, path: Path, tell: Tell) -> Written:
    """Read it again, by itself: what is removed has to be provable from the file. Raises
    NotArchived, OSError."""
    reader, read = ChainReader(key_files().root(), is_part=True), _Read(found.count, tell)
    with open_regular(path) as file:
        try:
            reader.read(read.lines(file))
        except UNREADABLE as exc:
            raise NotArchived(f"{path.name} is there, and is no segment. Move it away.") from exc
    report = reader.report()
    _check(report, found, path)
    return Written(
        first=found.first,
        last=found.last,
        last_at=found.at,
        name=found.name,
        size=read.size,
        sha256=read.digest.hexdigest(),
        prev=reader.prev.hex(),
        tree=reader.tree.to_text(),
        root=report.root,
        rotations=list(rotations(found.last)),
    )


class _Read:
    """What was read: how many bytes, and their SHA-256. `tell` hears now and then of `count`, which
    were written by then."""

    def __init__(self, count: int, tell: Tell) -> None:
        self.size, self.digest = 0, hashlib.sha256()
        self._count, self._tell = count, tell

    def lines(self, file: Iterable[bytes]) -> Iterator[str]:
        for number, line in enumerate(file):
            if number % TELL_EVERY == 0:
                self._tell(self._count, self._count)
            self.size += len(line)
            self.digest.update(line)
            yield line.decode()


def _check(report: Report, found: Due, path: Path) -> None:
    if not report.ok:
        what = "What is stored" if path.name != found.name else f"{path.name}, which is there,"
        raise NotArchived(f"{what} does not verify: {report.problems[0]}")
    if (report.first_seq, report.last_seq, report.last_checkpoint) != (
        found.first,
        found.last,
        found.last,
    ):
        raise NotArchived(f"{path.name} has not entries {found.first} to {found.last}.")


def orphans() -> tuple[str, ...]:
    """Files in the folder that no segment tells of: of a try that was cut off, or from before the
    database was restored."""
    known = {segment.name for segment in segments()}
    names = {path.name for path in segment_folder().glob("audit-*.jsonl")}
    return tuple(sorted(names - known))
