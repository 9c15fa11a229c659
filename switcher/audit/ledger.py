"""The audit trail's one writer: append only, canonical, in the transaction of its change.

The shape of a body (all of it is hashed):
    {"actor", "at", "facts": {…}, "from": {"ip", "agent"}, "host", "kind", "reason", "seq",
     "source", "switch", "v": 1}
What may be nested stands under `facts`, so that a verifier finds `at` and `seq` without parsing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.db import connection, transaction
from django.dispatch import Signal

from switcher.audit.ledger_reader import MAX_SEQ, columns, salted
from switcher.audit.verifier.switchboard_verify import GENESIS, leaf
from switcher.domain.clock import Clock, system
from switcher.models import AuditEntry, LedgerRow, Origin, SwitchEvent

changed = Signal()

# Any number that nothing else in this database locks by.
_HEAD_LOCK = 0x5377_6974_6368


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and from where. `source` is page, api, command, admin, gateway, watcher or
    server."""

    name: str
    source: str
    user_id: int | None = None
    ip: str | None = None
    agent: str = ""


SERVER = Actor("switchboard", "server")


_writing: ContextVar[bool] = ContextVar("writing", default=False)


@contextmanager
def writing() -> Iterator[None]:
    """A transaction that appends to the trail. It takes the lock on the head before it takes any
    other: two that took theirs in different orders would wait for each other for ever.

    SQLite: an IMMEDIATE transaction is alone in writing. PostgreSQL: a lock of the transaction;
    what is read after it was taken is what the one before has committed.
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
    """Append one entry. Only inside `writing()`: an entry alone tells of nothing.

    `origin` is the row of a person's address and browser where one exists already; else one is
    made from the actor.
    """
    assert _writing.get(), "an entry is written with its change"
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
            "v": 1,
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
        **columns(kind, reason, facts),
    )
    # Robust: what was committed is not undone by who hears of it.
    transaction.on_commit(partial(changed.send_robust, sender=kind, host=host))
    return row


def _head() -> tuple[int, bytes]:
    """The next number and the hash before it."""
    rows = LedgerRow.objects.filter(seq__lt=MAX_SEQ).order_by("-seq")
    last = rows.values_list("seq", "hash").first()
    return (last[0] + 1, bytes(last[1])) if last else (1, GENESIS)


def stamp(at: datetime) -> str:
    """UTC, always of 27 characters: as text it sorts by time."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(value: Any) -> str:
    """One text for one value, as RFC 8785 has it: keys sorted, no spaces; floats and times become
    strings. Half a surrogate, which no UTF-8 holds, becomes a question mark."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


MAX_INT = 2**53


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(v) for v in value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, float):
        return format(value, ".3f")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= MAX_INT:
        return str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def origin_of(actor: Actor) -> Origin | None:
    """The row that says from where, or None where nothing is known of it."""
    if not actor.ip and not actor.agent:
        return None
    salt = secrets.token_bytes(16)
    return Origin.objects.create(ip=actor.ip, agent=actor.agent[:300], salt=salt)


def hidden(origin: Origin | None) -> dict[str, str]:
    """What a body holds of a person's address and browser: SHA-256(salt || value). With the row
    erased nobody learns them from it; while it is there, it is attested."""
    return {} if origin is None else salted(origin.ip, origin.agent, bytes(origin.salt))
