"""Old entries leave the database, once they lie in a file that was verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from switcher.audit.archive_files import last_moved
from switcher.audit.checkpoints import vouch_for_segment
from switcher.audit.ledger import Actor, append, writing
from switcher.audit.verifier.switchboard_verify import ARCHIVED
from switcher.domain.clock import Clock
from switcher.domain.errors import Conflict
from switcher.models import AuditEntry, LedgerRow, Origin, Segment

# In one transaction: others write meanwhile.
AT_ONCE = 2000


# Any number that nothing else in this database locks by.
_ARCHIVE_LOCK = 0x5377_6172_6368
ANOTHER_MOVES = "Another process is moving old entries. Nothing else was done."


class Busy(Conflict):
    """Another process is moving old entries."""


@contextmanager
def alone() -> Iterator[None]:
    """Whoever moves entries is alone on this database, wherever its server runs: PostgreSQL holds
    a lock for this connection. SQLite lies on one machine, where a lock on the folder does. Raises
    Busy."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_ARCHIVE_LOCK])
        if not cursor.fetchone()[0]:
            raise Busy(ANOTHER_MOVES)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_ARCHIVE_LOCK])


@dataclass(frozen=True, slots=True)
class Written:
    """A file with the entries from `first` to `last`, which were verified in it. `tree` and `prev`
    are what the rest is verified from."""

    first: int
    last: int
    last_at: datetime
    name: str
    size: int  # bytes
    sha256: str
    prev: str
    tree: str
    root: str
    rotations: list[dict[str, str]]


def close(written: Written, hosts: dict[str, Any], actor: Actor, clock: Clock) -> None:
    """From here on these entries lie in the file. Raises Conflict where another was quicker,
    KeyUnusable, TrailBroken.

    `hosts` is what was active on each when the last of them was written. The entry tells it, and
    which key signs now, as what told it before leaves.
    """
    with writing():
        if last_moved() != written.first - 1:
            raise Conflict("Another process has moved these entries.")
        entry = append(
            ARCHIVED,
            actor,
            clock=clock,
            until=written.last_at,
            file=written.name,
            bytes=written.size,
            hosts=hosts,
            **vouch_for_segment(written.first, written.last, written.sha256, written.root),
        )
        Segment.objects.create(
            first=written.first,
            last=written.last,
            last_at=written.last_at,
            name=written.name,
            size=written.size,
            sha256=written.sha256,
            prev=written.prev,
            tree=written.tree,
            rotations=written.rotations,
            entry=entry.seq,
            at=clock.now(),
        )


def is_moved_left() -> bool:
    """Whether some of the entries that lie in segments are still here."""
    return LedgerRow.objects.filter(seq__lte=last_moved()).exists()


def remove_moved() -> int:
    """Remove some of the entries that lie in segments, and gives how many: none when all are gone.

    With them go the addresses and browsers that no other record refers to: what is kept for long
    holds no personal data but names.
    """
    with transaction.atomic():
        seqs = LedgerRow.objects.filter(seq__lte=last_moved()).order_by("seq")
        gone = list(seqs.values_list("seq", flat=True)[:AT_ONCE])
        if not gone:
            return 0
        entries = AuditEntry.objects.filter(seq__lte=gone[-1])
        origins = set(entries.exclude(origin=None).values_list("origin", flat=True))
        entries.delete()
        LedgerRow.objects.filter(seq__lte=gone[-1]).delete()
        Origin.objects.filter(pk__in=origins, auditentry=None, switchevent=None).delete()
    return len(gone)
