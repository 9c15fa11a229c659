"""Verifies the whole stored trail: for the command, for the page, and once a day.

`verify` reads and compares. `run` and `start` do the same, one at a time per process, and append
the result as an entry.
"""

from __future__ import annotations

import heapq
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from django.db import connections

from switcher.audit.alarms import MAX_TEXT, describe_error, raise_alarm
from switcher.audit.archive_files import (
    NotAsSealed,
    all_after,
    archive_files,
    end_of,
    rotations_before_end,
    rows_of,
)
from switcher.audit.ledger import Actor, append, changed, writing
from switcher.audit.ledger_reader import BEFORE_ALL, newest_seq, stored_notes
from switcher.audit.paths import anchors, key_files
from switcher.audit.search_index import IndexComparison
from switcher.audit.signing_keys import KeyRefused
from switcher.audit.verifier.switchboard_verify import (
    BadNote,
    Note,
    PublicKey,
    Report,
    Row,
    Verifier,
    read_anchors,
)
from switcher.domain.clock import Clock, read_moment, system
from switcher.domain.errors import TrailUnreadable
from switcher.models import ArchiveFile

log = logging.getLogger(__name__)

CHECKED = "audit.checked"
# How many checkpoints are sorted by size at a time. They are almost in order: only a few anchors
# were redelivered later.
SORT_WINDOW = 4096
# Pause after each chunk of entries, which takes some 4 ms, so that pages and clients are served.
PAUSE_S = 0.002

OnProgress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Verified:
    """The verdicts and, if the index was compared, the entries that differ in it."""

    report: Report
    index_differs: int | None = None
    index_first: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        return self.report.ok and not self.index_differs

    def to_json(self) -> dict[str, Any]:
        verdicts = self.report.to_json() | {"ok": self.ok}
        if self.index_differs is None:
            return verdicts
        return verdicts | {
            "index_differs": self.index_differs,
            "index_first": list(self.index_first),
        }


def verify(on_progress: OnProgress = lambda done, total: None, index: bool = False) -> Verified:
    """Verify all entries against the checkpoints, the anchors and the public keys, in constant
    memory. With `index`, also compare the search columns with the entries."""
    verifier = Verifier(keys=_roots())
    notes = _notes(verifier)
    note = next(notes, None)  # before any entry is read, as later checkpoints cover more
    archived = archive_files()
    after = archived[-1].last if archived else BEFORE_ALL
    total = newest_seq()
    comparison = IndexComparison(after) if index else None
    for rows in _rows(verifier, archived):
        while note is not None and size_of(note) <= verifier.size + len(rows):
            verifier.expect(note)
            note = next(notes, None)
        verifier.add(rows)
        if comparison is not None and rows[-1][0] > after:
            comparison.add(rows)
        on_progress(verifier.size, total)
    while note is not None:
        verifier.expect(note)
        note = next(notes, None)
    if comparison is None:
        return Verified(verifier.report())
    return Verified(verifier.report(), *comparison.result())


def _roots() -> list[PublicKey]:
    try:
        return key_files().root()
    except KeyRefused:
        return []  # Then no checkpoint is believed, and the verdict says so.


# -- Entries


def _rows(verifier: Verifier, archived: list[ArchiveFile]) -> Iterator[list[Row]]:
    """Yield the entries of archive files, then those in the database, even if some are archived
    meanwhile.
    """
    for file in archived:
        if file.last >= verifier.size:
            yield from _rows_of_file(verifier, file)
    files = list(archived)

    def read_file(file: ArchiveFile) -> Iterator[list[Row]]:
        files.append(file)
        return _rows_of_file(verifier, file)

    yield from all_after(archived[-1].last if archived else BEFORE_ALL, read_file)
    for file in files:
        _check_sealed(verifier, file)


def _rows_of_file(verifier: Verifier, file: ArchiveFile) -> Iterator[list[Row]]:
    """Yield the entries of an archive file, and report what is wrong with it."""
    try:
        yield from rows_of(file)
    except OSError as exc:
        why = f"Entries {file.first} to {file.last} are in {file.path}: {exc.strerror}."
        _skip(verifier, file, why)
    except NotAsSealed:
        text = f"{file.file_name} is not the file that was sealed."
        verifier.fail("intact", text)
        if verifier.size != file.last:
            _skip(verifier, file, f"{text} It does not end with entry {file.last}.")


def _skip(verifier: Verifier, file: ArchiveFile, why: str) -> None:
    """Continue verifying after an archive file that is missing or wrong. Neither the tree in its
    row nor the key rotations have to be trusted: later checkpoints cover the tree's root, and both
    keys have signed each rotation."""
    try:
        tree, prev = end_of(file)
        for rotation in rotations_before_end(file):
            verifier.rotated_before(rotation)
    except TrailUnreadable:
        verifier.fail("complete", why)  # and `_check_sealed` reports what cannot be read
    else:
        verifier.skip(tree, prev, why)


def _check_sealed(verifier: Verifier, file: ArchiveFile) -> None:
    """Report a file's row that is unreadable, or that no signed entry confirms."""
    try:
        tree, _ = end_of(file)
        rotations_before_end(file)
    except TrailUnreadable as exc:
        verifier.fail("complete", exc.text)
        return
    if not verifier.says_archived(file.first, file.last, file.sha256, tree.root().hex()):
        span = f"entries {file.first} to {file.last} were moved to {file.file_name}"
        verifier.fail("complete", f"No signed entry says that {span}.")


# -- Checkpoints


def size_of(note: str) -> int:
    """Return how many entries a note claims to cover; 0 if it is not a checkpoint."""
    try:
        return Note.parse(note).size
    except BadNote:
        return 0


def _notes(verifier: Verifier) -> Iterator[str]:
    """Yield the stored checkpoints and the anchors by size, each once."""
    stored = _sorted(_stored_notes(verifier))
    anchored = _sorted(read_anchors(_lines_until_now(anchors())))
    last = ""
    for _, note in heapq.merge(stored, anchored):
        if note != last:
            yield note
        last = note


def _stored_notes(verifier: Verifier) -> Iterator[str]:
    for row_size, note in stored_notes():
        size = size_of(note)
        if size not in (0, row_size):
            text = f"A checkpoint over {size} entries is stored as one over {row_size}."
            verifier.fail("anchored", text)
        yield note


def _lines_until_now(path: Path | None) -> Iterator[str]:
    """Yield the lines that a file has now, without those appended meanwhile."""
    if path is None or not path.exists():
        return
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (line := file.readline()):
            left -= len(line)
            yield line.decode("utf-8", "replace")


def _sorted(notes: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield notes with their sizes, sorted within a window of SORT_WINDOW."""
    iterator = iter(notes)
    heap = [(size_of(note), note) for note in islice(iterator, SORT_WINDOW)]
    heapq.heapify(heap)
    for note in iterator:
        yield heapq.heappushpop(heap, (size_of(note), note))
    while heap:
        yield heapq.heappop(heap)


# -- One verification at a time, recorded as an entry


class Cut(Exception):
    """Reading the trail was cut off because the process is stopping. No entry records it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A running verification, or the last one of this process."""

    by: str
    began_at: datetime
    done: int = 0
    total: int = 0
    ended_at: datetime | None = None
    result: Verified | None = None
    error: str = ""

    @property
    def runs(self) -> bool:
        return self.ended_at is None

    @property
    def percent(self) -> int:
        return min(100, self.done * 100 // self.total) if self.total else 0


_progress: Progress | None = None
_running = threading.Lock()  # held while one runs
_ending = threading.Event()


def progress() -> Progress | None:
    """Return the running verification, or the last one of this process."""
    return _progress


def forget() -> None:
    """Reset this module, for a new start in the same process."""
    global _progress
    _progress = None
    _ending.clear()


def end() -> None:
    """Interrupt readers of the trail, and start no new verification: the process is stopping."""
    _ending.set()


def wait(patience_s: float) -> None:
    """Wait until no verification runs. By then its entry has been appended, or never will be."""
    if _running.acquire(timeout=patience_s):
        _running.release()


def stop_if_ending(done: int = 0, total: int = 0) -> None:
    """Raise Cut if the process is stopping. Can be passed as a progress callback, whose arguments
    it ignores."""
    if _ending.is_set():
        raise Cut


def start(actor: Actor, clock: Clock = system) -> bool:
    """Verify in a new thread. Return False if a verification is already running."""
    if not _begin(actor, clock):
        return False

    def run_in_thread() -> None:
        try:
            with suppress(Cut):
                _run(actor, clock)
        finally:
            connections.close_all()

    threading.Thread(target=run_in_thread, name="audit-verify", daemon=True).start()
    return True


def run(actor: Actor, clock: Clock = system) -> Progress | None:
    """Verify in this thread and return how it ended; None if a verification runs already. Raises
    Cut."""
    if not _begin(actor, clock):
        return None
    _run(actor, clock)
    return _progress


def _begin(actor: Actor, clock: Clock) -> bool:
    global _progress
    if _ending.is_set() or not _running.acquire(blocking=False):
        return False
    _progress = Progress(actor.name, clock.now())
    return True


def _run(actor: Actor, clock: Clock) -> None:
    def on_progress(done: int, total: int) -> None:
        _update(done=done, total=total)
        stop_if_ending()
        clock.sleep(PAUSE_S)

    try:
        result = verify(on_progress)
        stop_if_ending()
        record(result, actor, clock)
    except Cut:
        _update(ended_at=clock.now(), error="It was cut off.")
        raise
    except Exception as exc:
        # The top of a thread: whatever the error, the verification has ended.
        log.exception("the audit trail could not be verified", extra={"action": "verify-failed"})
        why = f"It could not be read to its end: {describe_error(exc)}."
        _update(ended_at=clock.now(), error=why)
        if not _ending.is_set():
            _record_failure(why, actor, clock)
    else:
        _update(ended_at=clock.now(), result=result)
    finally:
        _running.release()
    _remember(clock.now())
    changed.send_robust(sender="verified")


def _update(**values: Any) -> None:
    global _progress
    if _progress is not None:
        _progress = replace(_progress, **values)


def record(result: Verified, actor: Actor, clock: Clock = system) -> None:
    """Append an entry with the verdicts, and an alarm if one does not hold."""
    report = result.report
    names = ("entries", "last_seq", "root", "checkpoints", "last_checkpoint", "bad_seq", "problems")
    verdicts = {name: getattr(report, name) for name in ("intact", "anchored", "complete")}
    facts = {name: getattr(report, name) for name in names}
    with writing():
        append(CHECKED, actor, clock=clock, ok=result.ok, verdicts=verdicts, **facts)
    if report.ok:
        log.info("the audit trail is intact, anchored and complete: %d entries", report.last_seq)
        return
    text = f"The audit trail does not verify: {report.problems[0]}"
    log.error(text, extra={"action": "trail-bad"})
    raise_alarm("trail", text, clock)


def _record_failure(why: str, actor: Actor, clock: Clock) -> None:
    """Append an entry saying that there are no verdicts, as somebody may have caused that on
    purpose."""
    reason = why[:MAX_TEXT]
    try:
        with writing():
            append(CHECKED, actor, clock=clock, reason=reason, ok=False, error=reason)
        raise_alarm("check", f"The audit trail could not be verified. {why}", clock)
    except Exception:
        # Also at the top: the database is not writable, but the log and the page show the failure.
        log.exception("a failed verification could not be recorded")


def last_run_at() -> datetime | None:
    """Return when a server on this machine last tried to verify the whole trail, according to a
    file next to the key."""
    try:
        return read_moment(key_files().remembered_check())
    except (KeyRefused, ValueError):
        return None


def _remember(at: datetime) -> None:
    try:
        key_files().remember_check(at.isoformat())
    except KeyRefused as exc:
        log.warning("the time of a verification could not be kept: %s", exc)
