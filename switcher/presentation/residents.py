"""The models that are loaded on a host, and why each of them is there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from switcher.domain.drift import GHOST_AFTER_S
from switcher.domain.last_answers import last_answer
from switcher.domain.model_copies import what_remains
from switcher.domain.observed import Installed, Resident, find_installed
from switcher.queries.from_rows import from_row
from switcher.queries.hosts import HostDetail
from switcher.queries.readings import LatestReading

ORDER = {"active": 0, "pin": 1, "other": 2, "ghost": 3}


@dataclass(frozen=True, slots=True)
class ResidentRow(Resident):
    """A resident model and why it is there. `kind` is as in bars.Part."""

    kind: str
    slow: bool  # part of it runs on the CPU
    ghost: str  # why it is a ghost: overdue, replaced, deleted
    reached: bool  # some installed name means it, so it can be freed
    remains: str  # when its keep-alive ends, if it cannot be freed
    answered_at: datetime | None  # as far as this process knows: it may be listed and dead


def resident_rows(host: HostDetail, now: datetime) -> tuple[ResidentRow, ...]:
    """Return what is loaded: the active model, then pinned ones, then the others."""
    rows = [_row(host, resident, now) for resident in host.reading.resident]
    return tuple(sorted(rows, key=lambda r: (ORDER[r.kind], -r.size)))


def loaded_words(on_disk: Installed | None, reading: LatestReading) -> tuple[str, str]:
    """Return the state (active, idle or none) of a model on a host, and its wording."""
    if on_disk is None:
        return "none", "Not on this host" if reading.installed else "Not known"
    if any(r.digest == on_disk.digest for r in reading.resident):
        return "active", "Loaded"
    return "idle", "Not loaded"


def _row(host: HostDetail, r: Resident, now: datetime) -> ResidentRow:
    is_active = host.active is not None and bool(r.digest) and r.digest == host.active.digest
    since = host.active.since if is_active and host.active is not None else None
    ghost = "" if is_active else _ghost(host, r, now)
    kind = "pin" if r.name in host.pinned_models else "other"
    reached = r.digest in host.reading.reached
    return from_row(
        ResidentRow,
        r,
        kind="active" if is_active else "ghost" if ghost else kind,
        slow=r.gpu_percent < 100 and bool(r.size_vram or host.vram_bytes),
        ghost=ghost,
        reached=reached,
        remains="" if reached else what_remains(r, host.name, now),
        answered_at=last_answer(host.id, r.digest, since),
    )


def _ghost(host: HostDetail, r: Resident, now: datetime) -> str:
    """Return why a model is a ghost; empty if it is not (facts 23, 24)."""
    late = r.expires_at is not None and now - r.expires_at > timedelta(seconds=GHOST_AFTER_S)
    # An old reading tells nothing about now, and a switch unloads at its own pace (fact 2).
    if late and host.running is None and not host.reading.error:
        return "overdue"
    installed = find_installed(host.reading.installed, r.name)
    if installed is None:
        return "deleted"
    return "" if installed.digest == r.digest else "replaced"
