"""The health of this server: its threads, its database, its disk, its hosts and its switches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError

from switcher.concurrency import loop as loops
from switcher.domain import vitals
from switcher.domain.clock import Clock, system
from switcher.domain.drift import OFFLINE_AFTER
from switcher.models import Host
from switcher.queries import database
from switcher.queries.database import reason_of
from switcher.queries.readings import LatestReading, latest_readings
from switcher.records.switches import unclaimed
from switcher.watching.loop import failures, latest

# What only readings write needs some 10 MB a day; a full disk stops every switch.
MIN_FREE_BYTES = 50_000_000
STUCK_S = 60.0
UNREAD = timedelta(minutes=2)  # readings are stored every 15 s
# Words for the loops that others depend on, by the name of their thread.
PARTS = {
    "switch-worker": "worker",
    "watcher": "watcher",
    "watch-keeper": "watcher",
    "audit-sign": "auditor",
}

_unclaimed_since: dict[int, float] = {}


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: the `problem` is a sentence, or empty. `facts` are shown."""

    name: str
    problem: str = ""
    facts: Any = None

    def to_json(self) -> dict[str, Any]:
        shown = {"ok": not self.problem}
        return shown if self.facts is None else shown | self.facts


def checks(clock: Clock = system) -> list[Check]:
    """Make all checks. A check that fails itself is a problem too."""
    made = [_parts, _gateway, _readable, _writable, _sessions, _disk, _hosts, _switches]
    found: list[Check] = []
    for check in made:
        found += _safely(check, clock)
    return found


def _safely(check: Callable[[Clock], list[Check]], clock: Clock) -> list[Check]:
    try:
        return check(clock)
    except (DatabaseError, OSError) as exc:
        name = check.__name__.strip("_")
        reason = reason_of(exc) if isinstance(exc, DatabaseError) else "the system refuses it"
        return [Check(name, f"The check of {name} failed: {reason}.")]


def _parts(_: Clock) -> list[Check]:
    """Check the background work that runs in this process."""
    texts = loops.problems()
    found = {}
    for loop, part in PARTS.items():
        if loop in texts and (part not in found or texts[loop]):
            found[part] = texts[loop]
    return [
        Check(part, f"The {part} {found[part]}." if found.get(part) else "", _runs(part in found))
        for part in dict.fromkeys(PARTS.values())
    ]


def _runs(here: bool) -> dict[str, Any]:
    return {"runs_here": here}


def _gateway(_: Clock) -> list[Check]:
    text = vitals.text_of("gateway")
    problem = f"The gateway {text}." if text else ""
    return [Check("gateway", problem, {"in_use": text is not None})]


def _readable(_: Clock) -> list[Check]:
    why = database.check_readable()
    return [Check("database_readable", f"The database cannot be read: {why}." if why else "")]


def _writable(_: Clock) -> list[Check]:
    why = database.check_writable()
    text = f"The database cannot be written: {why}." if why else ""
    return [Check("database_writable", text)]


def _sessions(_: Clock) -> list[Check]:
    why = database.session_problem()
    return [Check("sessions", f"Nobody can be signed in: {why}." if why else "")]


def _disk(_: Clock) -> list[Check]:
    disk = os.statvfs(settings.DATA_DIR)
    free = disk.f_bavail * disk.f_frsize
    few = f"The data directory's disk has only {free // 10**6} MB left."
    return [Check("disk", few if free < MIN_FREE_BYTES else "", {"free_bytes": free})]


def _hosts(clock: Clock) -> list[Check]:
    rows = list(Host.objects.filter(removed_at=None).select_related("reading").order_by("name"))
    readings = latest_readings(rows, latest())
    found, texts = [], []
    for row in rows:
        text = _host_problem(row, readings[row.pk], clock)
        found.append({"name": row.name, "ok": not text})
        if text:
            texts.append(f"{row.name} {text}.")
    return [Check("hosts", " ".join(texts), {"hosts": found})]


def _host_problem(row: Host, reading: LatestReading, clock: Clock) -> str:
    if max(reading.failures, failures(row.pk)) >= OFFLINE_AFTER:
        return "does not answer"
    if row.degraded:
        return "does not hold what is recorded as active"
    if reading.at is not None and clock.now() - reading.at > UNREAD:
        return "has not been read for some minutes"
    return ""


def _switches(clock: Clock) -> list[Check]:
    """Check for switches whose lease no living worker holds."""
    now = time.monotonic()
    open_now = dict(unclaimed(clock))
    for switch_id in _unclaimed_since.keys() - open_now.keys():
        del _unclaimed_since[switch_id]
    stuck = [
        switch_id
        for switch_id in open_now
        if now - _unclaimed_since.setdefault(switch_id, now) > STUCK_S
    ]
    texts = [f"No worker runs switch {switch_id}." for switch_id in stuck]
    return [Check("switches", " ".join(texts), {"waiting": len(open_now)})]
