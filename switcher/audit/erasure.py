"""Erases a person's addresses and browsers; their actions stay recorded."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import OperationalError, connection
from django.db.models import Q, QuerySet

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest
from switcher.models import AuditEntry, Origin, SwitchEvent

ERASED = "audit.erased"
WAITS = (
    "The database's file still has them, because somebody is reading older rows. The server tries "
    "again every few seconds until they are gone."
)
# The user waits for this, and so do all writers.
EMPTY_LOG_TIMEOUT_MS = 1000


@dataclass(frozen=True, slots=True)
class Held:
    """What is held about a person, as counts. `origins` counts the rows with an address and a
    browser."""

    entries: int
    switches: int
    origins: int

    @property
    def known(self) -> bool:
        return bool(self.entries or self.switches)


@dataclass(frozen=True, slots=True)
class Erased:
    """How many addresses and browsers were erased, and whether they are gone from the database's
    files too. They are not as long as another transaction still reads older rows."""

    origins: int
    gone: bool


def held_of(name: str) -> Held:
    """Return what the database holds about a person, by account name."""
    if "\0" in name:
        return Held(0, 0, 0)  # No database can hold such text, and PostgreSQL rejects the query.
    return Held(
        AuditEntry.objects.filter(actor=name).count(),
        SwitchEvent.objects.filter(actor=name).count(),
        _origins(name).count(),
    )


def erase(name: str, actor: Actor, reason: str = "", clock: Clock = system) -> Erased:
    """Erase the addresses and browsers that a person acted from, and the salts of their hashes in
    the entries: without its salt, a hash cannot be traced back.

    No entry changes, so the chain still verifies. Raises BadRequest if nobody of this name has
    acted, or if all of their entries were archived, which removes the addresses.
    """
    if "\0" in reason:
        raise BadRequest("A reason is plain text.", "reason")
    if not held_of(name).known:
        text = f"No entry and no switch in the database is by {name}."
        raise BadRequest(f"{text} Nothing was erased.", "user")
    _overwrite_freed_pages()
    with writing():
        values = {"ip": None, "agent": "", "salt": b"", "erased_at": clock.now()}
        erased = _origins(name).update(**values)
        append(ERASED, actor, clock=clock, reason=reason, person=name, places=erased)
    return Erased(erased, forget_older_versions(EMPTY_LOG_TIMEOUT_MS))


def newest_erasure() -> int:
    """Return the number of the newest entry about an erasure, or 0."""
    entries = AuditEntry.objects.filter(kind=ERASED).order_by("-seq")
    return entries.values_list("seq", flat=True).first() or 0


def _origins(name: str) -> QuerySet[Origin]:
    of_entries = AuditEntry.objects.filter(actor=name).exclude(origin=None).values("origin")
    of_switches = SwitchEvent.objects.filter(actor=name).exclude(origin=None).values("origin")
    theirs = Q(pk__in=of_entries) | Q(pk__in=of_switches)
    return Origin.objects.filter(theirs, erased_at=None)


def _overwrite_freed_pages() -> None:
    """Overwrite deleted data, which would otherwise stay in SQLite's pages until they are
    reused."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA secure_delete = ON")


def forget_older_versions(timeout_ms: int = 0) -> bool:
    """Remove older versions of rows, which SQLite keeps in its log and PostgreSQL in its table.
    Return False if a transaction still reads them. Inside a transaction this is impossible, so that
    also returns False."""
    if connection.in_atomic_block:
        return False
    return _empty_log(timeout_ms) if connection.vendor == "sqlite" else _vacuum()


def _vacuum() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("VACUUM switcher_origin")
        # Rows that a snapshot still sees, or whose page was in use, remain and are counted.
        cursor.execute(
            "SELECT n_dead_tup FROM pg_stat_user_tables "
            "WHERE relid = to_regclass('switcher_origin')"
        )
        return not cursor.fetchone()[0]


def _empty_log(timeout_ms: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        before = cursor.fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {timeout_ms:d}")
        try:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            is_busy = cursor.fetchone()[0]
            return not is_busy
        except OperationalError:
            return False  # locked by a writer
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {before:d}")
