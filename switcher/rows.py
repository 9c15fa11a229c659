"""The ledger as it is stored, and what its index holds of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db import OperationalError, connections

from switcher.evidence.switchboard_verify import Row
from switcher.states import ENDED

CHUNK = 1000
BEFORE_ALL = -(2**63)

_NEWEST = "SELECT max(seq) FROM switcher_ledgerrow WHERE seq < %s"
_ORDER = f"FROM switcher_ledgerrow WHERE seq > %s ORDER BY seq LIMIT {CHUNK}"
_POSTGRES = f"SELECT seq, coalesce(body, ''), coalesce(prev, ''), coalesce(hash, '') {_ORDER}"
# A column of SQLite holds whatever somebody puts into it: the types are forced.
_HASHES = "coalesce(CAST(prev AS BLOB), x''), coalesce(CAST(hash AS BLOB), x'')"
_SQLITE = f"SELECT seq, coalesce(CAST(body AS TEXT), ''), {_HASHES} {_ORDER}"
_SQLITE_RAW = f"SELECT seq, coalesce(CAST(body AS BLOB), x''), {_HASHES} {_ORDER}"


def stored_rows(after: int = BEFORE_ALL, using: str = "default") -> Iterator[list[Row]]:
    """All entries behind number `after`, in their order, some at a time: in constant memory, and
    whatever was done to them.

    By their numbers and not in one long query: no reading holds back SQLite's checkpoints of its
    own log, or PostgreSQL's vacuum. Entries that are appended meanwhile come, too.
    """
    vendor = connections[using].vendor
    last: Any = after
    while True:
        rows = _sqlite(last, using) if vendor == "sqlite" else _fetch(_POSTGRES, last, using)
        if not rows:
            return
        last = rows[-1][0]
        yield rows if type(last) is int else [_as_numbered(row) for row in rows]


def newest_seq(using: str = "default") -> int:
    """The number of the last entry; 0 if there is none. What is no number counts for nothing:
    SQLite sorts it behind all numbers."""
    with connections[using].cursor() as cursor:
        cursor.execute(_NEWEST, [2**62])
        return int(cursor.fetchone()[0] or 0)


def _sqlite(last: Any, using: str) -> list[Row]:
    try:
        return _fetch(_SQLITE, last, using)
    except OperationalError as exc:
        if "decode" not in str(exc):
            raise
    # A body that is no UTF-8 any more is read all the same, and is then not what was hashed.
    rows: list[Any] = _fetch(_SQLITE_RAW, last, using)
    return [(seq, body.decode("utf-8", "surrogateescape"), *rest) for seq, body, *rest in rows]


def _fetch(sql: str, last: Any, using: str) -> list[Row]:
    with connections[using].cursor() as cursor:
        cursor.execute(sql, [last])
        rows: list[Row] = cursor.fetchall()
    return rows


def _as_numbered(row: Any) -> Row:
    """SQLite sorts what is no number behind all numbers."""
    seq, body, prev, entry_hash = row
    return (seq if isinstance(seq, int) else 0, body, prev, entry_hash)


# -- The index

_ENDED = {state.value for state in ENDED}


def columns(kind: str, reason: str, facts: dict[str, Any]) -> dict[str, str]:
    """What an entry is found by, beside its own fields."""
    state = kind.removeprefix("switch.")
    return {
        "model": str(facts.get("model") or "")[:200],
        "outcome": state if kind.startswith("switch.") and state in _ENDED else "",
        "reason": reason[:500],
    }


def index_row(body: str) -> dict[str, Any] | None:
    """The columns of the index as a body has them; None where it is no body."""
    try:
        told = json.loads(body)
        return {
            "seq": told["seq"],
            "at": datetime.fromisoformat(told["at"]),
            "kind": told["kind"],
            "actor": told["actor"],
            "host": told["host"],
            "switch_id": told["switch"],
            **columns(told["kind"], told["reason"], told["facts"]),
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def salted(ip: str | None, agent: str, salt: bytes) -> dict[str, str]:
    """What a body holds of an address and a browser."""
    values = {"ip": str(ip or ""), "agent": agent}
    return {k: hashlib.sha256(salt + v.encode()).hexdigest() for k, v in values.items() if v}
