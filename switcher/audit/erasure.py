"""A person's addresses and browsers are erased; what they did stays."""

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
    "The database's file still has them while somebody reads older rows; a server tries again, "
    "every few seconds, until that has ended."
)
# The person waits for it, and so does all that writes.
PATIENCE_MS = 1000


@dataclass(frozen=True, slots=True)
class Held:
    """What is held of a person. `places` are rows with an address and a browser."""

    entries: int
    switches: int
    places: int

    @property
    def known(self) -> bool:
        return bool(self.entries or self.switches)


@dataclass(frozen=True, slots=True)
class Erased:
    """How many addresses and browsers were erased, and whether no byte of them is left in the
    database: where somebody still reads older rows, its file has them until that has ended."""

    places: int
    gone: bool


def held_of(name: str) -> Held:
    """What the database holds of a person, by the name of their account."""
    if "\0" in name:
        return Held(0, 0, 0)  # no database holds that, and PostgreSQL does not even look
    return Held(
        AuditEntry.objects.filter(actor=name).count(),
        SwitchEvent.objects.filter(actor=name).count(),
        _places(name).count(),
    )


def erase(name: str, actor: Actor, reason: str = "", clock: Clock = system) -> Erased:
    """Erase the addresses and browsers that a person acted from, and the salts that hide them in
    the entries: nobody can find out any more what is behind a hash.

    No entry changes, so the chain still verifies. Raises BadRequest where nobody of this name
    acted, or all of it lies in segments: with the entries the addresses went.
    """
    if "\0" in reason:
        raise BadRequest("A reason is plain text.", "reason")
    if not held_of(name).known:
        text = f"Nobody named {name} stands in an entry or a switch that is in the database."
        raise BadRequest(f"{text} Nothing was erased.", "user")
    _overwrite_what_is_freed()
    with writing():
        values = {"ip": None, "agent": "", "salt": b"", "erased_at": clock.now()}
        erased = _places(name).update(**values)
        append(ERASED, actor, clock=clock, reason=reason, person=name, places=erased)
    return Erased(erased, forget_older_versions(PATIENCE_MS))


def newest_erasing() -> int:
    """The number of the newest entry that tells of one; 0 if there is none."""
    entries = AuditEntry.objects.filter(kind=ERASED).order_by("-seq")
    return entries.values_list("seq", flat=True).first() or 0


def _places(name: str) -> QuerySet[Origin]:
    of_entries = AuditEntry.objects.filter(actor=name).exclude(origin=None).values("origin")
    of_switches = SwitchEvent.objects.filter(actor=name).exclude(origin=None).values("origin")
    theirs = Q(pk__in=of_entries) | Q(pk__in=of_switches)
    return Origin.objects.filter(theirs, erased_at=None)


def _overwrite_what_is_freed() -> None:
    """SQLite leaves what was deleted in its pages until they are used again."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA secure_delete = ON")


def forget_older_versions(patience_ms: int = 0) -> bool:
    """The old rows stand in SQLite's log until it is emptied, in PostgreSQL's table until a
    vacuum. Neither can be done inside a transaction. False: somebody reads what is older."""
    if connection.in_atomic_block:
        return False
    with connection.cursor() as cursor:
        if connection.vendor != "sqlite":
            cursor.execute("VACUUM switcher_origin")
            # What somebody's snapshot still sees, or whose page was in use, it left and counted.
            cursor.execute(
                "SELECT n_dead_tup FROM pg_stat_user_tables "
                "WHERE relid = to_regclass('switcher_origin')"
            )
            return not cursor.fetchone()[0]
        cursor.execute("PRAGMA busy_timeout")
        before = cursor.fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {patience_ms:d}")
        try:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return not cursor.fetchone()[0]  # busy
        except OperationalError:
            return False  # locked by who writes
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {before:d}")
