"""The trail as it leaves: JSON lines that prove themselves, and CSV for people.

Read and made some lines at a time, in the order of the entries and in constant memory. An export
of everything is a chain that the verifier checks as a whole. A selection is no chain: there each
entry brings its proof that it is in the checkpoint at the head.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from switcher.audit.archive_files import ArchiveFile, begins_behind
from switcher.audit.archive_reader import all_behind
from switcher.audit.entries import facts_of, read_body
from switcher.audit.entry_descriptions import model_of, outcome_words, sentence
from switcher.audit.filters import Filters
from switcher.audit.ledger_reader import BEFORE_ALL, columns, newest_checkpoint, stored_notes
from switcher.audit.proofs import NoProof, Prover
from switcher.audit.search import find
from switcher.audit.verification import rotations
from switcher.audit.verifier.switchboard_verify import Row
from switcher.domain.errors import Conflict
from switcher.models import LedgerRow

VERSION = 1
JSONL, CSV = "jsonl", "csv"
FORMS = {JSONL: "application/x-ndjson", CSV: "text/csv; charset=utf-8"}
AT_ONCE = 1000
# Nobody waits long for the first lines.
FIRST = 100
# There is no page to be kept waiting: longer looks for fewer questions.
_STEPS = (2_000, 20_000)

HEAD = (
    "seq", "at", "kind", "what", "actor", "source", "host", "model", "outcome", "reason",
    "switch", "hash",
)  # fmt: skip
# What a spreadsheet would take for a formula, or what hides one from who checks for it.
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\0")


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported: entries behind the newest segment that there was when it began, up to
    number `upto`."""

    form: str
    filters: Filters
    segment: ArchiveFile | None
    upto: int
    by: str
    made_at: datetime

    @property
    def behind(self) -> int:
        return self.segment.last if self.segment is not None else BEFORE_ALL


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some lines of an export, and how many entries they tell of."""

    data: bytes
    entries: int


def chunks(export: Export) -> Iterator[Chunk]:
    """The export from its first line to its last."""
    if export.form == CSV:
        yield from _csv(export)
    elif export.filters.active:
        yield from _selection(export)
    else:
        yield from _chain(export)


# -- JSON lines


def _chain(export: Export) -> Iterator[Chunk]:
    """Everything: the entries with the checkpoints over them, each behind its last entry."""
    segment, head = export.segment, [_head(export)]
    # Where what is kept of it is damaged, the verifier misses what is before.
    if segment is not None and segment.tree.size and segment.prev:
        first, prev = segment.last + 1, segment.prev.hex()
        head.append(_line("segment", first=first, prev=prev, tree=segment.tree.to_text()))
        head += [_line("rotation", **row) for row in segment.rotations]
    yield Chunk("".join(head).encode(), 0)
    notes = stored_notes(max(0, export.behind), export.upto)
    coming = next(notes, None)
    for rows in _stored(export):
        lines = []
        for row in rows:
            lines.append(_entry(row))
            while coming is not None and coming[0] <= row[0]:
                lines.append(_line("checkpoint", note=coming[1]))
                coming = next(notes, None)
        yield Chunk("".join(lines).encode(), len(rows))


def _selection(export: Export) -> Iterator[Chunk]:
    """What the filter lets through, each entry with its proof."""
    last = newest_checkpoint(export.upto)
    head = [_head(export)]
    if last is not None:
        head += [_line("rotation", **row) for row in rotations(last.size)]
        head.append(_line("checkpoint", note=last.note))
    yield Chunk("".join(head).encode(), 0)
    size = last.size if last is not None else 0
    prover = Prover(size)
    for rows in _selected(export):
        text = "".join(_entry(row, _proof(prover, row[0], size)) for row in rows)
        yield Chunk(text.encode(), len(rows))


def _proof(prover: Prover, seq: int, size: int) -> str:
    """The proof as a member of a line; null for what is newer than the checkpoint."""
    if seq > size:
        return ',"proof":null'
    try:
        hashes = '","'.join([sibling.hex() for sibling in prover.proof(seq)])
    except NoProof:
        return ',"proof":null'
    return f',"proof":["{hashes}"]' if hashes else ',"proof":[]'


def _entry(row: Row, more: str = "") -> str:
    seq, body, prev, entry_hash = row
    return (
        f'{{"type":"entry","seq":{seq},"body":{json.dumps(body)},'
        f'"prev":"{prev.hex()}","hash":"{entry_hash.hex()}"{more}}}\n'
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
    for rows in all_behind(export.behind):
        fit = [row for row in rows if row[0] <= export.upto]
        if fit:
            yield fit
        if len(fit) < len(rows):
            return


def _selected(export: Export) -> Iterator[list[Row]]:
    """What the filter lets through. Raises Conflict where some of it was moved meanwhile: that
    would be missing, without a word."""
    after, want = max(0, export.behind), FIRST
    while True:
        found = find(export.filters, want, after=after, upto=export.upto, steps=_STEPS)
        rows = LedgerRow.objects.filter(pk__in=found.seqs).order_by("seq")
        some = [(r.seq, r.body, bytes(r.prev), bytes(r.hash)) for r in rows]
        if begins_behind() != export.behind:
            raise Conflict("Old entries were moved while these were looked for. Export again.")
        if some:
            yield some
        if not found.more:
            return
        after = found.went_to if found.went_to is not None else found.seqs[-1]
        want = AT_ONCE


# -- CSV


def _csv(export: Export) -> Iterator[Chunk]:
    """For people and their spreadsheets. No addresses and no browsers of persons: what has left
    could not be erased any more."""
    yield Chunk(_rows_text([HEAD]), 0)
    for some in _selected(export) if export.filters.active else _stored(export):
        yield Chunk(_rows_text([_cells(row) for row in some]), len(some))


def _rows_text(rows: list[tuple[str, ...]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


def _cells(row: Row) -> tuple[str, ...]:
    """From the body, which is evidence, and not from the columns to search by."""
    seq, body, _, entry_hash = row
    told = read_body(body)
    facts, kind = facts_of(told), str(told.get("kind") or "")
    host, reason = str(told.get("host") or ""), str(told.get("reason") or "")
    found = columns(kind, reason, facts)
    cells = (
        str(seq),
        str(told.get("at") or ""),
        kind,
        sentence(kind, host, facts),
        str(told.get("actor") or ""),
        str(told.get("source") or ""),
        host,
        model_of(found["model"]),
        outcome_words(found["outcome"]),
        reason,
        str(told.get("switch") or ""),
        entry_hash.hex(),
    )
    return tuple(safe_cell(cell) for cell in cells)


def safe_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_DANGEROUS) else text
