"""Moves old entries to sealed archive files. The state stays consistent whenever the process dies:

1. the file is written under a temporary name, and flushed to the disk;
2. it is verified there, with the verifier that an auditor has;
3. it gets its final name; if a file without a row has that name already, that file is used instead;
4. one transaction records it, and from then on these entries count as archived;
5. the archived entries are removed from the database in steps; the next run continues that.
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
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from switcher.audit.archive_files import (
    archive_files,
    end_of,
    last_archived,
    newest_archive_file,
    rotations,
)
from switcher.audit.checkpoints import vouch_for_archive
from switcher.audit.export import JSONL, Export, chunks
from switcher.audit.filters import Filters
from switcher.audit.ledger import Actor, append, writing
from switcher.audit.paths import archive_folder, key_files
from switcher.audit.point_in_time import recorded_hosts
from switcher.audit.signing_keys import sync_folder
from switcher.audit.verifier.switchboard_verify import ARCHIVED, UNREADABLE, Verifier, read_chain
from switcher.domain.clock import Clock, system
from switcher.domain.errors import Conflict, SwitcherError
from switcher.domain.states import OPEN
from switcher.models import (
    ArchiveFile,
    AuditEntry,
    Checkpoint,
    LedgerRow,
    Origin,
    SwitchEvent,
)

log = logging.getLogger(__name__)

# In one file: some 400 MB, written in about ten seconds.
MAX_ENTRIES = 500_000
PROGRESS_LINES = 1000
# Removed in one transaction; others write between two.
REMOVE_ENTRIES = 2000

# The schedule makes one file a day, but not if only the trail's own upkeep wrote entries: making a
# file appends an entry, which would be a reason to make the next file.
SCHEDULE_INTERVAL = timedelta(days=1)
UPKEEP_KINDS = (ARCHIVED, "audit.checked", "audit.alarm", "audit.seal-remade")

# Any lock number that nothing else in this database uses.
_ARCHIVE_LOCK = 0x5377_6172_6368

OnProgress = Callable[[int, int], object]


class NotArchived(SwitcherError):
    """Nothing was archived; the text says why."""

    code = "not-archived"


class Busy(Conflict):
    """Another process is archiving entries. Nothing else was done."""


def find_due(before: datetime, max_entries: int = MAX_ENTRIES) -> ArchiveFile | None:
    """Return the next archive file to make from entries before a moment, unsaved; None if there is
    none.

    A file ends at a checkpoint, so that it proves itself. It has at most `max_entries` entries,
    unless the next checkpoint is further away. The entries of an open switch are not archived.
    """
    begin = last_archived()
    size = _last_movable(begin, before, max_entries)
    rows = AuditEntry.objects.filter(seq__lte=size).order_by("-seq")
    newest_at = rows.values_list("at", flat=True).first() if size else None
    if newest_at is None:
        return None
    name = ArchiveFile.name_for(begin + 1, size)
    return ArchiveFile(first=begin + 1, last=size, last_at=newest_at, name=name)


def _last_movable(begin: int, before: datetime, max_entries: int) -> int:
    entries = AuditEntry.objects.filter(seq__gt=begin).order_by("seq")
    open_switches = SwitchEvent.objects.filter(state__in=sorted(OPEN))
    checkpoints = Checkpoint.objects.filter(size__gt=begin).order_by("size")
    for staying in (entries.filter(at__gte=before), entries.filter(switch__in=open_switches)):
        first = staying.values_list("seq", flat=True).first()
        if first is not None:
            checkpoints = checkpoints.filter(size__lt=first)
    sizes = checkpoints.values_list("size", flat=True)
    return sizes.filter(size__lte=begin + max_entries).last() or sizes.first() or 0


def archive(
    before: datetime,
    actor: Actor,
    clock: Clock = system,
    max_entries: int = MAX_ENTRIES,
    on_progress: OnProgress = lambda done, total: None,
) -> ArchiveFile | None:
    """Archive the next file of entries from before a moment; return None if there is none. Raises
    NotArchived, TrailBroken, KeyRefused, OSError or Conflict if nothing was archived.

    `on_progress` is called with the number of entries done and their total, and once more before
    the file gets its final name. If it raises, nothing is archived.
    """
    if find_due(before, max_entries) is None and not _is_archived_left():
        return None
    with _alone():
        remove_all_archived()  # leftovers of a process that died
        file = find_due(before, max_entries)
        if file is not None:
            _archive(file, actor, clock, on_progress)
    return file


def archive_on_schedule(
    before: datetime,
    actor: Actor,
    clock: Clock = system,
    on_progress: OnProgress = lambda done, total: None,
) -> ArchiveFile | None:
    """Archive entries if there are enough for a file, unless another process is archiving. May be
    called often."""
    if not _is_archived_left() and not _is_worth_a_file(before, clock):
        return None
    try:
        return archive(before, actor, clock, on_progress=on_progress)
    except Busy:
        return None


def _is_worth_a_file(before: datetime, clock: Clock) -> bool:
    newest = newest_archive_file()
    is_recent = newest is not None and abs(clock.now() - newest.at) < SCHEDULE_INTERVAL
    due = find_due(before, sys.maxsize if is_recent else MAX_ENTRIES)
    if due is None or (is_recent and due.count < MAX_ENTRIES):
        return False
    rows = AuditEntry.objects.filter(seq__gte=due.first, seq__lte=due.last)
    return rows.exclude(kind__in=UPKEEP_KINDS).exists()


def orphans() -> list[str]:
    """Return the names of files without a row, which come from an interrupted attempt, or from
    before the database was restored."""
    known = {file.file_name for file in archive_files()}
    return sorted({path.name for path in archive_folder().glob("audit-*.jsonl")} - known)


@contextmanager
def _alone() -> Iterator[None]:
    """Lock this folder and this database for archiving. Raises Busy."""
    folder = archive_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600), "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Busy from exc
        with _alone_on_postgresql():
            for leftover in folder.glob(".audit-*.part"):
                leftover.unlink(missing_ok=True)
            yield


@contextmanager
def _alone_on_postgresql() -> Iterator[None]:
    """Lock the database for archiving. The lock on the folder is not enough, since other machines
    may share the database."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_ARCHIVE_LOCK])
        if not cursor.fetchone()[0]:
            raise Busy
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_ARCHIVE_LOCK])


# -- The file


def _archive(file: ArchiveFile, actor: Actor, clock: Clock, on_progress: OnProgress) -> None:
    path = file.path
    if path.exists():
        _verify(file, path, on_progress)  # of an attempt that was interrupted here
    else:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            _write(file, draft, actor, clock, on_progress)
            _verify(file, draft, on_progress)
            on_progress(file.count, file.count)
            _give_name(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    sync_folder(path.parent)
    record_archived(file, recorded_hosts(file.last_at), actor, clock)
    remove_all_archived()
    log.info("entries %d to %d were moved to %s", file.first, file.last, file.file_name)


def _write(
    file: ArchiveFile, path: Path, actor: Actor, clock: Clock, on_progress: OnProgress
) -> None:
    """Write the file, readable only by its owner."""
    previous = newest_archive_file()
    export = Export(JSONL, Filters(), previous, file.last, actor.name, clock.now())
    done = 0
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as written:
        for chunk in chunks(export):
            written.write(chunk.data)
            done += chunk.entries
            on_progress(done, file.count)
        written.flush()
        os.fsync(written.fileno())


def _give_name(draft: Path, path: Path) -> None:
    """Give the file its final name, by a link, which never replaces another file. Raises
    Conflict."""
    try:
        os.link(draft, path)
    except FileExistsError as exc:
        raise Conflict(f"{path.name} appeared meanwhile.") from exc


def _verify(file: ArchiveFile, path: Path, on_progress: OnProgress) -> None:
    """Verify the file by itself, since removed entries must be provable from it, and set what later
    entries continue from. Raises NotArchived, OSError."""
    previous, keys, digest = newest_archive_file(), key_files().root(), hashlib.sha256()
    verifier = Verifier(*end_of(previous), keys) if previous is not None else Verifier(keys=keys)

    def digested(lines: Iterable[bytes]) -> Iterator[str]:
        for number, line in enumerate(lines):
            if number % PROGRESS_LINES == 0:
                on_progress(file.count, file.count)
            digest.update(line)
            yield line.decode()

    with path.open("rb") as opened:
        try:
            read_chain(verifier, digested(opened))
        except UNREADABLE as exc:
            text = f"{path.name} exists, and is no archive file. Move it away."
            raise NotArchived(text) from exc
    report = verifier.report()
    if not report.ok:
        what = "What is stored" if path != file.path else f"{path.name}, which exists,"
        raise NotArchived(f"{what} does not verify: {report.problems[0]}")
    found = (report.first_seq, report.last_seq, report.last_checkpoint)
    if found != (file.first, file.last, file.last):
        raise NotArchived(f"{path.name} does not hold entries {file.first} to {file.last}.")
    file.size = path.stat().st_size
    file.sha256 = digest.hexdigest()
    file.prev, file.tree = verifier.prev.hex(), verifier.tree.to_text()
    file.rotations = [rotation.to_json() for rotation in rotations(0, file.last)]


# -- The database


def record_archived(file: ArchiveFile, hosts: dict[str, Any], actor: Actor, clock: Clock) -> None:
    """Record the file; from then on its entries count as archived. Raises Conflict, KeyRefused,
    TrailBroken.

    `hosts` is what was active on each host at the time of the file's last entry. The new entry
    repeats it, because the old entries that say so leave the database.
    """
    with writing():
        if last_archived() != file.first - 1:
            raise Conflict("Another process has archived these entries.")
        entry = append(
            ARCHIVED,
            actor,
            clock=clock,
            until=file.last_at,
            file=file.file_name,
            bytes=file.size,
            hosts=hosts,
            **vouch_for_archive(file),
        )
        file.entry, file.at = entry.seq, clock.now()
        file.save(force_insert=True)


def _is_archived_left() -> bool:
    """Return whether archived entries are still in the database."""
    return LedgerRow.objects.filter(seq__lte=last_archived()).exists()


def remove_all_archived() -> None:
    """Remove archived entries from the database, and addresses and browsers that nothing else
    refers to: archive files hold no personal data but names.
    """
    while _remove_some():
        pass


def _remove_some() -> bool:
    with transaction.atomic():
        rows = LedgerRow.objects.filter(seq__lte=last_archived()).order_by("seq")
        seqs = list(rows.values_list("seq", flat=True)[:REMOVE_ENTRIES])
        if not seqs:
            return False
        entries = AuditEntry.objects.filter(seq__lte=seqs[-1])
        origins = set(entries.exclude(origin=None).values_list("origin", flat=True))
        entries.delete()
        LedgerRow.objects.filter(seq__lte=seqs[-1]).delete()
        Origin.objects.filter(pk__in=origins, auditentry=None, switchevent=None).delete()
    return True
