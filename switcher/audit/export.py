"""Export the trail: JSON lines that prove themselves, or CSV for people.

An export is read and written in chunks, in the order of the entries and in constant memory. An
export of everything is a chain that the verifier checks as a whole. A selection is not a chain:
each of its entries carries a proof that it is in the checkpoint at the head of the file.

The beginning and the end of each export are entries of the trail.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from switcher.audit import checkpoints
from switcher.audit.archive_files import (
    all_after,
    begins_after,
    newest_archive_file,
    rotations,
    rotations_before_end,
)
from switcher.audit.checkpoints import TrailBroken
from switcher.audit.entry_descriptions import describe, outcome_text, short_model
from switcher.audit.filters import Filters
from switcher.audit.ledger import Actor, append, writing
from switcher.audit.ledger_reader import (
    BEFORE_ALL,
    checkpoint_over,
    derived_columns,
    facts_of,
    newest_checkpoint,
    newest_seq,
    read_body,
    stored_notes,
)
from switcher.audit.proofs import NoProof, Prover
from switcher.audit.search import matching
from switcher.audit.signing_keys import KeyRefused
from switcher.audit.verifier.switchboard_verify import Row
from switcher.concurrency.threads import in_thread
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest, Conflict
from switcher.models import ArchiveFile, LedgerRow

log = logging.getLogger(__name__)

BEGAN, EXPORTED = "audit.export-began", "audit.exported"
VERSION = 1
JSONL, CSV = "jsonl", "csv"
FORMS = {JSONL: "application/x-ndjson", CSV: "text/csv; charset=utf-8"}

CHUNK_ENTRIES = 1000
FIRST_CHUNK_ENTRIES = 100  # the client soon sees that the export has begun
CHUNK_BYTES = 256 * 1024

HEAD = (
    "seq", "at", "kind", "what", "actor", "source", "host", "model", "outcome", "reason",
    "switch", "hash",
)  # fmt: skip
# The first characters that make a spreadsheet read a cell as a formula, or that hide one.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")


@dataclass(frozen=True, slots=True)
class Export:
    """An export of the entries up to number `last` that are not in an archive file. `archived` is
    the newest archive file when the export begins."""

    form: str
    filters: Filters
    archived: ArchiveFile | None
    last: int
    by: str
    made_at: datetime

    @property
    def after(self) -> int:
        return self.archived.last if self.archived is not None else BEFORE_ALL


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an export, and how many entries end in it."""

    data: bytes
    entries: int


# -- Exports that are recorded


@dataclass(frozen=True, slots=True)
class RecordedExport:
    """An export whose beginning is an entry of the trail; `end` appends the entry about its end."""

    chunks: Iterator[Chunk]
    file_name: str
    form: str
    filter: dict[str, str]
    began: int
    actor: Actor
    clock: Clock

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of a response with it."""
        return {
            "Content-Type": FORMS[self.form],
            "Content-Disposition": f'attachment; filename="{self.file_name}"',
            "Cache-Control": "no-store",
        }

    def end(self, entries: int, whole: bool) -> None:
        """Append an entry about the end. `entries` is how many were read. If not `whole`, the
        export was cut off, and how many of them arrived is not known."""
        with writing():
            append(
                EXPORTED,
                self.actor,
                clock=self.clock,
                format=self.form,
                filter=self.filter,
                began=self.began,
                entries=entries,
                whole=whole,
            )


def content_type(form: str) -> str:
    """Return the media type of a format. Raises BadRequest if there is no such format."""
    if form not in FORMS:
        raise BadRequest(f"A format is one of {', '.join(FORMS)}.", "format")
    return FORMS[form]


def begin(form: str, filters: Filters, actor: Actor, clock: Clock = system) -> RecordedExport:
    """Begin an export of the entries that match a filter. Raises BadRequest.

    Existing entries are signed first, so that the export ends at a checkpoint.
    """
    content_type(form)
    began = _append_began(form, filters.to_dict(), actor, clock)
    try:
        checkpoints.sign(clock)
    except (TrailBroken, KeyRefused) as exc:
        # The evidence is exported as it is; the verifier says what is wrong with it.
        log.error("exported without a new checkpoint: %s", exc.text, extra={"action": exc.code})
    signed = newest_checkpoint()
    last = signed.size if signed is not None and signed.size >= began else newest_seq()
    export = Export(form, filters, newest_archive_file(), last, actor.name, clock.now())
    which = "selection" if filters.active else "trail"
    name = f"audit-{which}-{export.made_at:%Y%m%dT%H%M%SZ}.{form}"
    return RecordedExport(chunks(export), name, form, filters.to_dict(), began, actor, clock)


def begin_archive_file(file: ArchiveFile, actor: Actor, clock: Clock = system) -> RecordedExport:
    """Begin a copy of an archive file."""
    which = {"segment": file.name}
    began = _append_began(JSONL, which, actor, clock)
    return RecordedExport(_file_chunks(file), file.file_name, JSONL, which, began, actor, clock)


def _append_began(form: str, filter_: dict[str, str], actor: Actor, clock: Clock) -> int:
    with writing():
        entry = append(BEGAN, actor, clock=clock, format=form, filter=filter_)
    return int(entry.seq)


def _file_chunks(file: ArchiveFile) -> Iterator[Chunk]:
    with file.open() as opened:
        while data := opened.read(CHUNK_BYTES):
            yield Chunk(data, 0)
    yield Chunk(b"", file.count)


async def stream(export: RecordedExport) -> AsyncIterator[bytes]:
    """Yield an export for a client that reads at its own pace and may leave at any time."""
    entries, whole = 0, False
    try:
        while (chunk := await in_thread(next, export.chunks, None)) is not None:
            yield chunk.data
            entries += chunk.entries
        whole = True
    finally:
        # If the client has disconnected, this request is being cancelled; still record the end.
        await asyncio.shield(in_thread(export.end, entries, whole))


def write(export: RecordedExport, path: Path) -> int:
    """Write an export to a file that only its owner can read, completely or not at all. Return the
    number of entries. Raises OSError."""
    entries, whole = 0, False
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                for chunk in export.chunks:
                    file.write(chunk.data)
                    entries += chunk.entries
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
            whole = True
        finally:
            Path(name).unlink(missing_ok=True)
    finally:
        export.end(entries, whole)
    return entries


# -- JSON lines


def chunks(export: Export) -> Iterator[Chunk]:
    """Yield an export from its first line to its last."""
    if export.form == CSV:
        return _csv(export)
    return _selection(export) if export.filters.active else _chain(export)


def _chain(export: Export) -> Iterator[Chunk]:
    """Yield all entries, and each checkpoint after the last entry that it covers."""
    archived, head = export.archived, [_head(export)]
    if archived is not None:
        begin = {"first": archived.last + 1, "prev": archived.prev, "tree": archived.tree}
        head.append(_line("segment", **begin))
        head += [_line("rotation", **row.to_json()) for row in rotations_before_end(archived)]
    yield Chunk("".join(head).encode(), 0)
    notes = stored_notes(max(0, export.after), export.last)
    note = next(notes, None)
    for rows in _stored(export):
        lines = []
        for row in rows:
            lines.append(_entry(row))
            while note is not None and note[0] <= row[0]:
                lines.append(_line("checkpoint", note=note[1]))
                note = next(notes, None)
        yield Chunk("".join(lines).encode(), len(rows))


def _selection(export: Export) -> Iterator[Chunk]:
    """Yield the entries that match the filter, each with its proof and behind its checkpoint."""
    yield Chunk(_head(export).encode(), 0)
    newest = newest_checkpoint()
    signed = newest.size if newest is not None else 0
    prover: Prover | None = None
    size = 0
    for rows in _selected(export):
        lines = []
        for row in rows:
            if size < row[0] <= signed and (checkpoint := checkpoint_over(row[0])) is not None:
                changes = rotations(size, checkpoint.size)
                lines += [_line("rotation", **change.to_json()) for change in changes]
                lines.append(_line("checkpoint", note=checkpoint.note))
                size, prover = checkpoint.size, Prover(checkpoint)
            lines.append(_entry(row, _proof(prover if row[0] <= size else None, row[0])))
        yield Chunk("".join(lines).encode(), len(rows))


def _proof(prover: Prover | None, seq: int) -> str:
    """Return the proof as a member of a line; null if there is none."""
    try:
        hashes = [sibling.hex() for sibling in prover.proof(seq)] if prover is not None else None
    except NoProof:
        hashes = None
    return f',"proof":{json.dumps(hashes, separators=(",", ":"))}'


def _entry(row: Row, proof: str = "") -> str:
    seq, body, prev, entry_hash = row
    return (
        f'{{"type":"entry","seq":{seq},"body":{json.dumps(body)},'
        f'"prev":"{prev.hex()}","hash":"{entry_hash.hex()}"{proof}}}\n'
    )


def _head(export: Export) -> str:
    return _line(
        "export",
        version=VERSION,
        made_at=export.made_at.isoformat(),
        by=export.by,
        filter=export.filters.to_dict(),
        selection=export.filters.active,
    )


def _line(kind: str, **members: Any) -> str:
    return json.dumps({"type": kind, **members}, separators=(",", ":")) + "\n"


def _stored(export: Export) -> Iterator[list[Row]]:
    for rows in all_after(export.after):
        fit = [row for row in rows if row[0] <= export.last]
        if fit:
            yield fit
        if len(fit) < len(rows):
            return


def _selected(export: Export) -> Iterator[list[Row]]:
    """Yield the entries that match the filter. Raises Conflict if entries were archived meanwhile,
    since the selection would silently lack some."""
    after, wanted = max(0, export.after), FIRST_CHUNK_ENTRIES
    while True:
        fitting = matching(export.filters, after, export.last + 1).order_by("seq")
        seqs = list(fitting.values_list("seq", flat=True)[:wanted])
        stored = LedgerRow.objects.filter(pk__in=seqs).order_by("seq")
        rows = [(row.seq, row.body, bytes(row.prev), bytes(row.hash)) for row in stored]
        if begins_after() != export.after:
            raise Conflict("Old entries were archived while these were read. Export again.")
        if not seqs:
            return
        yield rows
        after, wanted = seqs[-1], CHUNK_ENTRIES


# -- CSV


def _csv(export: Export) -> Iterator[Chunk]:
    """Yield rows for spreadsheets. Addresses and browsers are left out, since they could not be
    erased outside the server."""
    yield Chunk(_csv_text([HEAD]), 0)
    for rows in _selected(export) if export.filters.active else _stored(export):
        yield Chunk(_csv_text([_cells(row) for row in rows]), len(rows))


def _csv_text(rows: list[tuple[str, ...]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


def _cells(row: Row) -> tuple[str, ...]:
    """Return the cells of an entry. They come from the body, which is evidence, and not from the
    index."""
    seq, body, _, entry_hash = row
    recorded = read_body(body)
    facts, kind = facts_of(recorded), str(recorded.get("kind") or "")
    host, reason = str(recorded.get("host") or ""), str(recorded.get("reason") or "")
    found = derived_columns(kind, reason, facts)
    cells = (
        str(seq),
        str(recorded.get("at") or ""),
        kind,
        describe(kind, host, facts),
        str(recorded.get("actor") or ""),
        str(recorded.get("source") or ""),
        host,
        short_model(found["model"]),
        outcome_text(found["outcome"]),
        reason,
        str(recorded.get("switch") or ""),
        entry_hash.hex(),
    )
    return tuple(safe_cell(cell) for cell in cells)


def safe_cell(text: str) -> str:
    """Return the text, escaped so that no spreadsheet reads it as a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
