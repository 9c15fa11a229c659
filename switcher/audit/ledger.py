"""Appends entries to the audit trail, in the transaction of the change that they record.

The body of an entry, all of which is hashed:
    {"actor", "at", "facts": {…}, "from": {"ip", "agent"}, "host", "kind", "reason", "seq",
     "source", "switch", "v": 2}
Only `facts` may be nested, so that a verifier finds `at` and `seq` without parsing JSON.

Entries of version 1 have the same members. Their serialiser sorted keys by code point, while RFC
8785 sorts them by UTF-16 code unit.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import rfc8785
from django.db import connection, transaction
from django.dispatch import Signal

from switcher.audit.ledger_reader import MAX_SEQ, derived_columns, salted
from switcher.audit.verifier.switchboard_verify import GENESIS, leaf
from switcher.domain.clock import Clock, system
from switcher.models import AuditEntry, LedgerRow, Origin, SwitchEvent

changed = Signal()

VERSION = 2
# Any lock number that nothing else in this database uses.
_HEAD_LOCK = 0x5377_6974_6368


@dataclass(frozen=True, slots=True)
class Actor:
    """The person or part that acts, and where from. `source` is page, api, command, admin, gateway,
    watcher or server.
    """

    name: str
    source: str
    user_id: int | None = None
    ip: str | None = None
    agent: str = ""


SERVER = Actor("switchboard", "server")


_writing: ContextVar[bool] = ContextVar("writing", default=False)


@contextmanager
def writing() -> Iterator[None]:
    """Open a transaction that appends to the trail. It locks the head of the trail before it takes
    any other lock: two transactions that take locks in different orders would deadlock.

    On SQLite an IMMEDIATE transaction is the only writer. On PostgreSQL it takes an advisory lock,
    after which it sees what the previous transaction committed.
    """
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_HEAD_LOCK])
        before = _writing.set(True)
        try:
            yield
        finally:
            _writing.reset(before)


def append(
    kind: str,
    actor: Actor,
    *,
    host: str = "",
    switch: SwitchEvent | None = None,
    origin: Origin | None = None,
    clock: Clock = system,
    reason: str = "",
    **facts: Any,
) -> AuditEntry:
    """Append one entry. Call it only inside `writing()`, together with the change that it records.

    `origin` is the row of a person's address and browser, if it exists; otherwise one is created
    from the actor.
    """
    assert _writing.get(), "an entry must be written in the transaction of its change"
    origin = origin or origin_of(actor)
    seq, prev = _head()
    at = clock.now()
    body = canonical(
        {
            "actor": actor.name,
            "at": stamp(at),
            "facts": facts,
            "from": hidden(origin),
            "host": host,
            "kind": kind,
            "reason": reason,
            "seq": seq,
            "source": actor.source,
            "switch": switch.pk if switch else None,
            "v": VERSION,
        }
    )
    LedgerRow.objects.create(seq=seq, body=body, prev=prev, hash=leaf(prev, body))
    row = AuditEntry.objects.create(
        seq=seq,
        at=at,
        kind=kind,
        actor=actor.name,
        host=host,
        switch=switch,
        origin=origin,
        **derived_columns(kind, reason, facts),
    )
    # Robust: an error in a receiver must not look like a failed change.
    transaction.on_commit(partial(changed.send_robust, sender=kind, host=host))
    return row


def _head() -> tuple[int, bytes]:
    """Return the number of the next entry, and the hash of the entry before it."""
    rows = LedgerRow.objects.filter(seq__lt=MAX_SEQ).order_by("-seq")
    last = rows.values_list("seq", "hash").first()
    return (last[0] + 1, bytes(last[1])) if last else (1, GENESIS)


def stamp(at: datetime) -> str:
    """Return a time in UTC as 27 characters that sort by time."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(value: Any) -> str:
    """Return the canonical JSON (RFC 8785) of a value that was converted by `_plain`."""
    return rfc8785.dumps(_plain(value)).decode()


MAX_INT = 2**53


def _plain(value: Any) -> Any:
    """Convert a value to strings, booleans, null and integers below 2^53, in lists and dicts.

    Sets are sorted; floats, times, larger integers and all other values become strings. A lone
    surrogate, which UTF-8 cannot hold, becomes a question mark.
    """
    if isinstance(value, dict):
        return {_text(key): _plain(member) for key, member in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(member) for member in value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < MAX_INT:
        return value
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, float):
        return format(value, ".3f")
    return str(value).encode("utf-8", "replace").decode()


def origin_of(actor: Actor) -> Origin | None:
    """Create the row with an actor's address and browser; return None if neither is known."""
    if not actor.ip and not actor.agent:
        return None
    salt = secrets.token_bytes(16)
    return Origin.objects.create(ip=actor.ip, agent=actor.agent[:300], salt=salt)


def hidden(origin: Origin | None) -> dict[str, str]:
    """Return the form in which an entry's body holds an address and a browser: SHA-256(salt ||
    value). It proves what the row says, and reveals nothing once the row is erased."""
    return {} if origin is None else salted(origin.ip, origin.agent, bytes(origin.salt))
