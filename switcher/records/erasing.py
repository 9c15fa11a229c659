"""A person's addresses and browsers are erased; what they did stays."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection
from django.db.models import Q, QuerySet

from switcher.clock import Clock, system
from switcher.errors import BadRequest
from switcher.models import AuditEntry, Origin, SwitchEvent
from switcher.records.ledger import Actor, append, writing

ERASED = "audit.erased"


@dataclass(frozen=True, slots=True)
class Held:
    """What is held of a person. `places` are rows with an address and a browser."""

    entries: int
    switches: int
    places: int

    @property
    def known(self) -> bool:
        return bool(self.entries or self.switches)


def held_of(name: str) -> Held:
    """What the database holds of a person, by the name of their account."""
    if "\0" in name:
        return Held(0, 0, 0)  # no database holds that, and PostgreSQL does not even look
    return Held(
        AuditEntry.objects.filter(actor=name).count(),
        SwitchEvent.objects.filter(actor=name).count(),
        _places(name).count(),
    )


def erase(name: str, actor: Actor, reason: str = "", clock: Clock = system) -> int:
    """Erase the addresses and browsers that a person acted from, and the salts that hide them in
    the entries: nobody can find out any more what is behind a hash. Returns how many there were.

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
    _forget_older_versions()
    return erased


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


def _forget_older_versions() -> None:
    """The old rows stand in SQLite's log until it is emptied, in PostgreSQL's table until a
    vacuum. Neither can be done inside a transaction."""
    if connection.in_atomic_block:
        return
    sqlite = connection.vendor == "sqlite"
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)" if sqlite else "VACUUM switcher_origin")
