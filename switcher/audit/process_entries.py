"""Processes of the server: when each began and ended, and with which version."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import django
from django.db import connection

from switcher import __version__
from switcher.audit.archive_files import last_moved
from switcher.audit.ledger import SERVER, append, writing
from switcher.audit.ledger_reader import newest_seq
from switcher.domain.clock import Clock, system
from switcher.models import AuditEntry, LedgerRow

STARTED, STOPPED, LOST = "server.started", "server.stopped", "server.lost"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the server. `role` is server or gateway; `behind` the number of an entry that is
    older than all of its own."""

    run: str
    role: str
    version: str
    behind: int

    @property
    def facts(self) -> dict[str, Any]:
        return {"run": self.run, "role": self.role, "version": self.version}


def this_process(run: str, role: str) -> Process:
    """The one that asks, before it is told of."""
    return Process(run, role, __version__, newest_seq())


def started(process: Process, clock: Clock = system) -> None:
    """It began."""
    where: dict[str, Any] = {
        "machine": platform.node(),
        "python": platform.python_version(),
        "django": django.get_version(),
        "database": connection.vendor,
    }
    with writing():
        append(STARTED, SERVER, clock=clock, **process.facts, **where)


def stopped(process: Process, clock: Clock = system) -> None:
    """It ended as it should."""
    with writing():
        append(STOPPED, SERVER, clock=clock, **process.facts)


def lost(process: Process, clock: Clock = system) -> None:
    """It is gone: killed, or the machine went away. Told if it was told of and has not said that it
    ended."""
    with writing():
        said = _said_of(process)
        # Its start may lie in a file by now.
        began = STARTED in said or process.behind < last_moved()
        if began and not said & {STOPPED, LOST}:
            append(LOST, SERVER, clock=clock, **process.facts)


def _said_of(process: Process) -> set[str]:
    """The kinds of the entries that tell of it."""
    rows = AuditEntry.objects.filter(kind__startswith="server.", seq__gt=process.behind)
    kinds = dict(rows.values_list("seq", "kind"))
    own = LedgerRow.objects.filter(pk__in=kinds, body__contains=f'"run":"{process.run}"')
    return {kinds[seq] for seq in own.values_list("seq", flat=True)}
