"""Reads the ledger as it is stored, and derives the index row of an entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from django.db import connection
from django.db.models import BinaryField, Max, OuterRef, Q, Subquery, TextField, Value
from django.db.models.functions import Cast, Coalesce

from switcher.audit.verifier.switchboard_verify import UNREADABLE, Row
from switcher.domain.clock import read_moment
from switcher.domain.states import ENDED
from switcher.models import AuditEntry, Checkpoint, LedgerRow

CHUNK = 1000
# Below and above all possible entry numbers. SQLite sorts text above all numbers, so
# `seq < MAX_SEQ` also leaves out rows whose number was overwritten with text.
BEFORE_ALL = -(2**63)
MAX_SEQ = 2**62

# SQLite keeps a value of any type in any column. Cast to bytes, every row can be read, and the
# verifier names the first that is not what was hashed.
_ROWS = {
    "sqlite": "SELECT seq, CAST(body AS BLOB), CAST(prev AS BLOB), CAST(hash AS BLOB)",
    "postgresql": "SELECT seq, body, prev, hash",
}


def stored_rows(after: int = BEFORE_ALL) -> Iterator[list[Row]]:
    """Yield all entries above number `after`, in order, a chunk at a time, in constant memory.

    Each chunk is a query of its own: one long query would hold back SQLite's WAL checkpoints and
    PostgreSQL's vacuum. Entries that are appended meanwhile are included.
    """
    vendor = connection.vendor
    sql = f"{_ROWS[vendor]} FROM switcher_ledgerrow WHERE seq > %s ORDER BY seq LIMIT %s"
    last: Any = after
    while True:
        # The connection of this thread: a streamed export moves from thread to thread.
        with connection.cursor() as cursor:
            cursor.execute(sql, [last, CHUNK])
            rows: list[Any] = cursor.fetchall()
        if not rows:
            return
        last = rows[-1][0]
        yield rows if vendor == "postgresql" else _with_types(rows)


def _with_types(rows: list[Any]) -> list[Row]:
    """Convert SQLite's rows to the expected types: an invalid number becomes 0, and invalid UTF-8
    becomes text that no entry has.
    """
    return [
        (
            seq if type(seq) is int else 0,
            body.decode("utf-8", "surrogateescape"),
            prev,
            entry_hash,
        )
        for seq, body, prev, entry_hash in rows
    ]


def stored_hashes(after: int, upto: int) -> list[tuple[int, bytes]]:
    """Return number and hash of the entries above `after`, up to `upto`, in order."""
    rows = LedgerRow.objects.filter(seq__gt=after, seq__lte=upto).order_by("seq")
    # The cast is for SQLite, which would return a hash that was overwritten with text as text.
    found = rows.values_list("seq", Cast("hash", BinaryField()))
    return [(seq, bytes(entry_hash)) for seq, entry_hash in found]


def newest_seq() -> int:
    """Return the number of the last entry, or 0."""
    rows = LedgerRow.objects.filter(seq__lt=MAX_SEQ).order_by("-seq")
    return int(rows.values_list("seq", flat=True).first() or 0)


def newest_entry(*kinds: str, **columns: str) -> tuple[int, str] | None:
    """Return number and body of the newest entry with these kinds and column values. The body is
    empty if the ledger lacks the entry.

    Index and body are read in one query, since entries can be moved to an archive file at any time.
    """
    body = LedgerRow.objects.filter(pk=OuterRef("seq")).values("body")
    rows = AuditEntry.objects.filter(kind__in=kinds, seq__lt=MAX_SEQ, **columns)
    return (
        rows.order_by("-seq")
        .values_list("seq", Coalesce(Subquery(body), Value(""), output_field=TextField()))
        .first()
    )


def body_of(seq: int) -> str:
    """Return the text of a stored entry; empty if the database has none of this number."""
    return LedgerRow.objects.filter(pk=seq).values_list("body", flat=True).first() or ""


def read_body(body: str) -> dict[str, Any]:
    """Parse a body; return an empty dict if it is not valid."""
    try:
        recorded = json.loads(body)
    except ValueError:
        return {}
    return recorded if isinstance(recorded, dict) else {}


def facts_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a parsed body."""
    facts = body.get("facts")
    return facts if isinstance(facts, dict) else {}


# -- Checkpoints


def newest_checkpoint(upto: int = MAX_SEQ - 1) -> Checkpoint | None:
    """Return the checkpoint that covers the most entries, but not more than `upto`. If there are
    several, return the newest."""
    return Checkpoint.objects.filter(size__lte=upto).order_by("-size", "-id").first()


def checkpoint_over(seq: int) -> Checkpoint | None:
    """Return the smallest checkpoint that covers an entry; of several, the newest."""
    covering = Checkpoint.objects.filter(size__gte=seq, size__lt=MAX_SEQ)
    return covering.order_by("size", "-id").first()


def stored_notes(above: int = -1, upto: int = MAX_SEQ - 1) -> Iterator[tuple[int, str]]:
    """Yield sizes and notes of the checkpoints over more than `above` and at most `upto` entries,
    by size. Checkpoints that are made meanwhile are left out."""
    newest = Checkpoint.objects.aggregate(newest=Max("pk"))["newest"] or 0
    rows = Checkpoint.objects.filter(pk__lte=newest, size__lte=upto)
    size, pk = above, newest
    while True:
        following = rows.filter(Q(size__gt=size) | Q(size=size, pk__gt=pk)).order_by("size", "pk")
        chunk = list(following.values_list("size", "pk", "note")[:CHUNK])
        if not chunk:
            return
        yield from ((row_size, note) for row_size, _, note in chunk)
        size, pk, _ = chunk[-1]


# -- The index

_ENDED = {state.value for state in ENDED}


def derived_columns(kind: str, reason: str, facts: dict[str, Any]) -> dict[str, str]:
    """Return the columns of the index that are derived from an entry's facts and reason."""
    state = kind.removeprefix("switch.")
    return {
        "model": str(facts.get("model") or "")[:200],
        "outcome": state if kind.startswith("switch.") and state in _ENDED else "",
        "reason": reason[:500],
    }


def index_row(body: str) -> dict[str, Any] | None:
    """Return the index row of a body; None if it is not an entry's body."""
    try:
        recorded = json.loads(body)
        return {
            "seq": recorded["seq"],
            "at": read_moment(recorded["at"]),
            "kind": recorded["kind"],
            "actor": recorded["actor"],
            "host": recorded["host"],
            "switch_id": recorded["switch"],
            **derived_columns(recorded["kind"], recorded["reason"], recorded["facts"]),
        }
    except UNREADABLE:
        return None


def salted(ip: str | None, agent: str, salt: bytes) -> dict[str, str]:
    """Return the salted hashes of an address and a browser, as in a body."""
    values = {"ip": str(ip or ""), "agent": agent}
    return {k: hashlib.sha256(salt + v.encode()).hexdigest() for k, v in values.items() if v}
