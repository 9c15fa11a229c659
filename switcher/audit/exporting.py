"""Exports of the trail, each with an entry when it begins and one when it ends or is cut off."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from switcher.audit import checkpoints, export_entries, subtrees
from switcher.audit.archive_files import ArchiveFile, newest_segment
from switcher.audit.checkpoints import KeyUnusable, TrailBroken
from switcher.audit.export import FORMS, JSONL, Export, chunks
from switcher.audit.filters import Filters
from switcher.audit.ledger import Actor
from switcher.audit.ledger_reader import newest_checkpoint, newest_seq
from switcher.concurrency.threads import in_thread
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest

READ = 256 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """An export that has begun."""

    export: Export
    actor: Actor
    began: int
    clock: Clock

    @property
    def content_type(self) -> str:
        return FORMS[self.export.form]

    @property
    def file_name(self) -> str:
        """What a browser saves it as."""
        which = "selection" if self.export.filters.active else "trail"
        return f"audit-{which}-{self.export.made_at:%Y%m%dT%H%M%SZ}.{self.export.form}"

    def end(self, entries: int, whole: bool) -> None:
        """Write down how it ended."""
        form, told = self.export.form, self.export.filters.to_dict()
        export_entries.ended(
            self.actor,
            form,
            told,
            began_seq=self.began,
            entries=entries,
            whole=whole,
            clock=self.clock,
        )


def begin(form: str, filters: Filters, actor: Actor, clock: Clock = system) -> Job:
    """Write down that it begins, and sign what there is, so that the export ends where a
    checkpoint does. Raises BadRequest."""
    if form not in FORMS:
        raise BadRequest(f"A format is one of {', '.join(FORMS)}.", "format")
    began = export_entries.began(actor, form, filters.to_dict(), clock)
    try:
        checkpoints.sign(clock)
        subtrees.keep()
    except (TrailBroken, KeyUnusable) as exc:
        # The evidence leaves as it stands; what is wrong with it is for the verifier to tell.
        log.error("exported without a new checkpoint: %s", exc.text, extra={"action": exc.code})
    last = newest_checkpoint()
    upto = last.size if last is not None and last.size >= began else newest_seq()
    export = Export(form, filters, newest_segment(), upto, actor.name, clock.now())
    return Job(export, actor, began, clock)


async def stream(job: Job) -> AsyncIterator[bytes]:
    """The export for a client that reads as fast as it likes, and may leave at any time."""
    lines, entries, whole = chunks(job.export), 0, False
    try:
        while (chunk := await in_thread(next, lines, None)) is not None:
            yield chunk.data
            entries += chunk.entries
        whole = True
    finally:
        # The client may have left: this is then what runs while the request is being cancelled.
        await asyncio.shield(in_thread(job.end, entries, whole))


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """The copy of a segment's file that somebody takes along."""

    segment: ArchiveFile
    actor: Actor
    began: int
    clock: Clock

    def end(self, whole: bool) -> None:
        """Write down how it ended."""
        export_entries.ended(
            self.actor,
            JSONL,
            _which(self.segment),
            began_seq=self.began,
            entries=self.segment.count if whole else 0,
            whole=whole,
            clock=self.clock,
        )


def _which(segment: ArchiveFile) -> dict[str, str]:
    return {"segment": segment.name}


def begin_segment(segment: ArchiveFile, actor: Actor, clock: Clock = system) -> SegmentJob:
    """Write down that it begins."""
    return SegmentJob(
        segment, actor, export_entries.began(actor, JSONL, _which(segment), clock), clock
    )


async def stream_segment(job: SegmentJob) -> AsyncIterator[bytes]:
    """The file as it is."""
    whole = False
    try:
        with await in_thread(job.segment.open) as file:
            while data := await in_thread(file.read, READ):
                yield data
        whole = True
    finally:
        await asyncio.shield(in_thread(job.end, whole))


def write(job: Job, path: Path) -> int:
    """The export as a file that is there as a whole or not at all, for its owner alone. Returns
    how many entries it has. Raises OSError."""
    entries, whole = 0, False
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                for chunk in chunks(job.export):
                    file.write(chunk.data)
                    entries += chunk.entries
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
            whole = True
        finally:
            Path(name).unlink(missing_ok=True)
    finally:
        job.end(entries, whole)
    return entries
