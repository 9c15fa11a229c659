"""Drift: how what a host holds differs from what is desired of it. Pure: no I/O, no Django.

Each reading is compared anew and the whole list of differences is given, so that who keeps it can
tell what began and what ended. What a model's leaving means (evicted, expired, restarted) can only
be told at the reading that first misses it: from then on the kind that was found stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.domain.observed import (
    Installed,
    Observation,
    Resident,
    find_digest,
    find_installed,
)
from switcher.domain.plans import gb, gpu_fall
from switcher.domain.published_name import PublishedName, is_taken, taken_text
from switcher.domain.specs import FOREVER, Spec, keep_alive_s

# A second more or less is no drift: the server counts its own, and a reading takes its time.
TOLERANCE_S = 5.0
OFFLINE_AFTER = 3
# Only then "overdue": a server takes its time to unload.
GHOST_AFTER_S = 30.0
REMEMBER = timedelta(hours=1)


class Kind(StrEnum):
    """What kind of drift. The values are what the database and the API hold."""

    EVICTED = "evicted"
    EXPIRED = "expired"
    RESTARTED = "restarted"
    MISSING = "missing"  # to be loaded, and not seen loaded so far
    RELOADED = "reloaded"
    SHORTENED = "shortened"
    ON_CPU = "on-cpu"
    OTHER_CONTENT = "other-content"
    GHOST = "ghost"
    FOREIGN = "foreign"
    UNREACHABLE = "unreachable"
    PUBLISHED = "published"  # the published name does not mean the active model
    FLAPPING = "flapping"  # repaired as often as is allowed, and back again


# A wanted model is not there.
GONE = frozenset({Kind.EVICTED, Kind.EXPIRED, Kind.RESTARTED, Kind.MISSING})
# What an ordinary switch to what is active mends. The name of OTHER_CONTENT would load something
# that nobody chose; FOREIGN belongs to somebody else; UNREACHABLE takes no call.
REPAIRED = GONE | {Kind.RELOADED, Kind.ON_CPU}

WORDS: dict[Kind, str] = {
    Kind.EVICTED: "Evicted",
    Kind.EXPIRED: "Expired",
    Kind.RESTARTED: "Server restarted",
    Kind.MISSING: "Not loaded",
    Kind.RELOADED: "Other options",
    Kind.SHORTENED: "Keep-alive shortened",
    Kind.ON_CPU: "On the CPU",
    Kind.OTHER_CONTENT: "Other content",
    Kind.GHOST: "Ghost",
    Kind.FOREIGN: "Foreign model",
    Kind.UNREACHABLE: "Not reachable",
    Kind.PUBLISHED: "Published name",
    Kind.FLAPPING: "Keeps coming back",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that is to be loaded. `gpu_percent` and `context_length` are as they were when it
    was last activated here; None or 0 where that is not known."""

    digest: str  # of a pinned one: empty, its name decides
    spec: Spec
    active: bool = False
    gpu_percent: int | None = None
    context_length: int = 0

    @property
    def name(self) -> ModelName:
        return self.spec.name

    @property
    def context(self) -> int:
        """What it is to be loaded with; 0: not known. What was verified comes before what was
        asked for: a server may allow less."""
        return self.context_length or self.spec.num_ctx or 0


@dataclass(frozen=True, slots=True)
class Desired:
    """What is desired of a host. `model_copies` are copies that we made there: name to its model.
    `verified` is what was loaded at the end of the last switch, by digest."""

    host: str
    active: Wanted | None = None
    pinned: tuple[Wanted, ...] = ()
    model_copies: Mapping[ModelName, ModelName] = field(default_factory=dict)
    verified: Mapping[str, Resident] = field(default_factory=dict)
    published: PublishedName | None = None  # the name that is to mean the active model

    def wanted(self, installed: Iterable[Installed]) -> tuple[Wanted, ...]:
        """The active model, then the pinned ones by what their names mean now; none twice."""
        found = {self.active.digest: self.active} if self.active else {}
        rows = list(installed)
        for each in self.pinned:
            row = find_installed(rows, each.name)
            if row is None:
                found.setdefault(f"={each.name.full}", each)
            else:
                found.setdefault(row.digest, self._as_verified(each, row.digest))
        return tuple(found.values())

    def _as_verified(self, w: Wanted, digest: str) -> Wanted:
        """A pinned model, with how it lay in memory at the end of the last switch."""
        was = self.verified.get(digest)
        if was is None:
            return replace(w, digest=digest)
        context = w.spec.num_ctx or was.context_length
        return replace(w, digest=digest, context_length=context, gpu_percent=was.gpu_percent)


@dataclass(frozen=True, slots=True)
class Seen:
    """A resident model as it was last seen."""

    row: Resident
    at: datetime


@dataclass(frozen=True, slots=True)
class Memory:
    """What readings before this one gave. `previous` is the last that answered, `failures` how
    many did not since then; `open` are the drifts that are known of."""

    previous: Observation | None = None
    failures: int = 0
    last: Mapping[str, Seen] = field(default_factory=dict)  # by digest
    reconnected: bool = False  # at a reading that was not judged
    open: frozenset[tuple[str, str]] = frozenset()  # kind, digest

    def after(self, now: Observation, judged: bool = True) -> Memory:
        """With this reading in it too. One that was not judged leaves its evidence to the next."""
        if not now.answered:
            return replace(self, failures=self.failures + 1)
        kept = {d: s for d, s in self.last.items() if now.at - s.at < REMEMBER}
        here = {r.digest: Seen(r, now.at) for r in now.resident}
        told = not judged and (self.reconnected or now.reconnected)
        return replace(self, previous=now, failures=0, last=kept | here, reconnected=told)

    def passing_over(self, now: Observation) -> Memory:
        """With a reading that was not judged though no switch was open: what was seen of a model
        before stays what the next one is compared with, so that nothing is lost in between."""
        return replace(self.after(now, judged=False), last={**self.after(now).last, **self.last})

    def has(self, kind: Kind, digest: str) -> bool:
        return (kind.value, digest) in self.open


@dataclass(frozen=True, slots=True)
class Found:
    """One difference, in plain words and with its evidence: what was wanted, what was seen before
    and what is seen now, each with its time."""

    kind: Kind
    model: str
    digest: str
    text: str
    evidence: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return self.kind.value, self.digest


@dataclass(frozen=True, slots=True)
class Recorded:
    """A drift that is known of and has not ended. `repair` is the switch that is to mend it."""

    id: int
    kind: Kind
    model: str
    digest: str
    text: str
    since: datetime
    repair: int | None = None

    @classmethod
    def of(cls, row: Any) -> Recorded:
        """From its row."""
        kind, repair = Kind(row.kind), row.repair_id
        return cls(row.pk, kind, row.model, row.digest, row.text, row.since, repair)

    @property
    def key(self) -> tuple[str, str]:
        return self.kind.value, self.digest


def judged(now: Observation) -> frozenset[Kind]:
    """The kinds of which a reading tells: of a host that does not answer nothing else is known."""
    return frozenset(Kind) if now.answered else frozenset({Kind.UNREACHABLE})


def find(desired: Desired, memory: Memory, now: Observation) -> tuple[Found, ...]:
    """All drift that this reading shows. Not to be asked while a switch is open."""
    if not now.answered:
        return _unreachable(desired, memory, now)
    wanted = desired.wanted(now.installed)
    found: list[Found] = []
    for each in wanted:
        found += _of_wanted(each, desired, memory, now)
    found += _of_published(desired, now)
    found += _of_others(desired, {w.digest for w in wanted if w.digest}, memory, now)
    if memory.has(Kind.FLAPPING, "") and any(f.kind in REPAIRED for f in found):
        found.append(Found(Kind.FLAPPING, "", "", "", {}))  # lasts as long as what comes back
    return tuple(found)


def _unreachable(desired: Desired, memory: Memory, now: Observation) -> tuple[Found, ...]:
    failures = memory.failures + 1
    if failures < OFFLINE_AFTER:
        return ()
    before = memory.previous
    since = f" It last answered at {_clock(before.at)}." if before else " It never answered."
    evidence = {
        "wanted": {"answers": True},
        "before": _reading(before),
        "now": {"at": now.at.isoformat(), "error": now.error, "failures": failures},
    }
    text = f"{desired.host} does not answer: {now.error}{since}"
    return (Found(Kind.UNREACHABLE, "", "", text, evidence),)


def ending(desired: Desired, now: Observation, kind: Kind, digest: str) -> str:
    """Why a drift that this reading does not show any more is over."""
    if kind is Kind.UNREACHABLE:
        return "It answers again."
    if kind is Kind.FLAPPING:
        return "What came back again and again is over."
    if kind is Kind.PUBLISHED:
        return "The published name is right again, or none is wanted."
    wanted = {w.digest or w.name.full[:80] for w in desired.wanted(now.installed)}
    here = find_digest(now.resident, digest) is not None
    if kind in (Kind.GHOST, Kind.FOREIGN):
        return "It is to be loaded now." if here and digest in wanted else "It is not loaded now."
    if digest not in wanted:
        return "It is not to be loaded here any more."
    if kind is Kind.OTHER_CONTENT:
        return "Its name means what is wanted again."
    if not here:
        return "It is not loaded now."
    return "It is loaded again." if kind in GONE else "It is as wanted again."


# --- the published name ------------------------------------------------------------------------


def _of_published(desired: Desired, now: Observation) -> list[Found]:
    """It is to mean the active model, by digest (fact 21)."""
    active, name = desired.active, desired.published
    if active is None or name is None or not name.wanted:
        return []
    there = find_installed(now.installed, name.wanted)
    means = there.digest if there else None
    if name.is_ours and means == active.digest:
        return []
    if there is None and not name.is_ours:
        return []  # it is only now to be made
    if is_taken(name, now.installed):
        text = taken_text(name)
    elif there is None:
        text = f"{name.wanted} is to mean {active.name}, and is not on the host."
    else:
        text = f"{name.wanted} is to mean {active.name}, and means other content."
    evidence = {
        "wanted": {"name": name.wanted.full, "digest": active.digest},
        "now": {"at": now.at.isoformat(), "name_means": means},
    }
    return [Found(Kind.PUBLISHED, name.wanted.full, active.digest, text, evidence)]


# --- one wanted model --------------------------------------------------------------------------


def _of_wanted(
    w: Wanted, desired: Desired, memory: Memory, now: Observation
) -> tuple[Found, ...] | list[Found]:
    other = _other_content(w, memory, now)
    if other is not None:
        return (other,)
    here = find_digest(now.resident, w.digest)
    if here is None:
        return (_gone(w, desired, memory, now),)
    checks = (_reloaded, _shortened, _on_cpu)
    return [f for check in checks if (f := check(w, here, memory, now)) is not None]


def _other_content(w: Wanted, memory: Memory, now: Observation) -> Found | None:
    """Its name means other content than the one that was activated, or nothing (facts 23, 24)."""
    row = find_installed(now.installed, w.name)
    if w.active and row is not None and row.digest == w.digest:
        return None
    if not w.active and row is not None:
        return None  # a pinned model is what its name means now
    last = memory.last.get(w.digest)
    means = "is not on the host any more" if row is None else "means other content now"
    if w.active:
        text = f"{w.name} {means} than the one that was activated."
        text = text if row else f"{w.name} is active, and {means}."
    else:
        text = f"{w.name} is to be kept loaded, and is not on the host."
    found = _found(Kind.OTHER_CONTENT, w, text, last, now, find_digest(now.resident, w.digest))
    found.evidence["now"]["name_means"] = row.digest if row else None
    return found


def _gone(w: Wanted, desired: Desired, memory: Memory, now: Observation) -> Found:
    """It is not there. Why, is judged when that is new."""
    last = memory.last.get(w.digest)
    kind, text = _why_gone(w, last, memory, now)
    known = next((k for k in GONE if memory.has(k, w.digest)), None)
    found = _found(known or kind, w, text, last, now, None)
    found.evidence["now"] |= {
        "resident": [_name(r, desired) for r in now.resident],
        "failures_before": memory.failures,
        "connection_closed": now.reconnected or memory.reconnected,
    }
    return found


def _why_gone(w: Wanted, last: Seen | None, memory: Memory, now: Observation) -> tuple[Kind, str]:
    to_be = "active" if w.active else "to be kept loaded"
    if last is None:
        return Kind.MISSING, f"{w.name} is {to_be}, and is not loaded."
    expires = last.row.expires_at
    if expires is not None and not last.row.stays and _server_time(now) >= expires - _TOLERANCE:
        return Kind.EXPIRED, f"{w.name} expired: its keep-alive ran out at {_clock(expires)}."
    restarted = _restarted(memory, now)
    if restarted:
        return Kind.RESTARTED, f"{w.name} is not loaded any more. {restarted}"
    since = _newcomers(memory, now)
    more = f" Since then {since} was loaded." if since else ""
    due = "to stay for ever" if last.row.stays else f"due to unload at {_clock(expires)}"
    return Kind.EVICTED, (f"{w.name} was evicted: at {_clock(last.at)} it was loaded, {due}.{more}")


def _restarted(memory: Memory, now: Observation) -> str:
    """Why one may say that the server restarted; empty if one may not. It takes all that was
    loaded with it."""
    before = memory.previous
    if before is None or any(find_digest(now.resident, r.digest) for r in before.resident):
        return ""
    if memory.failures:
        return (
            f"The server restarted: after {_clock(before.at)} it did not answer, "
            "and what it had loaded is gone."
        )
    if now.reconnected or memory.reconnected:
        return "The server restarted: it closed its connections, and what it had loaded is gone."
    if len(before.resident) > 1 and not now.resident:
        return (
            "All models left at once, though none had expired: the server restarted, "
            "or somebody unloaded all."
        )
    return ""


def _newcomers(memory: Memory, now: Observation) -> str:
    before = {r.digest for r in memory.previous.resident} if memory.previous else set()
    return ", ".join(r.name.short for r in now.resident if r.digest not in before)


def _reloaded(w: Wanted, here: Resident, memory: Memory, now: Observation) -> Found | None:
    """Fact 12: somebody asked for it with other runner options."""
    if not w.context or here.context_length in (0, w.context):
        return None
    text = (
        f"{w.name} was reloaded with other options: its context is {here.context_length:,}, "
        f"it is to be {w.context:,}."
    )
    return _found(Kind.RELOADED, w, text, memory.last.get(w.digest), now, here)


def _shortened(w: Wanted, here: Resident, memory: Memory, now: Observation) -> Found | None:
    """Fact 13: a client's keep-alive overwrites ours. A request without one restarts the clock, so
    an expiry that moved lies a whole keep-alive after the reading before."""
    if w.spec.keep_alive == "0" or here.expires_at is None:
        return None
    last = memory.last.get(w.digest)
    if w.spec.keep_alive == FOREVER:
        if here.stays:
            return None
    elif here.stays or not _cut_short(w, here, last, memory, now):
        return None
    says = "for ever" if w.spec.keep_alive == FOREVER else w.spec.keep_alive
    text = (
        f"The keep-alive of {w.name} was shortened: it unloads at {_clock(here.expires_at)}, "
        f"though it is to stay {says}."
    )
    return _found(Kind.SHORTENED, w, text, last, now, here)


def _cut_short(
    w: Wanted, here: Resident, last: Seen | None, memory: Memory, now: Observation
) -> bool:
    if last is None or last.row.expires_at is None:
        return False
    assert here.expires_at is not None
    if not last.row.stays and abs(here.expires_at - last.row.expires_at) < _MOVED:
        return memory.has(Kind.SHORTENED, w.digest)  # as it was
    whole = timedelta(seconds=keep_alive_s(w.spec.keep_alive) or 0.0)
    clock = timedelta(seconds=now.clock_ahead_s)
    return here.expires_at < last.at + clock + whole - _TOLERANCE


def _on_cpu(w: Wanted, here: Resident, memory: Memory, now: Observation) -> Found | None:
    """Less of it lies on the GPU than the profile wants, or than when it was activated."""
    why = gpu_fall(here.gpu_percent, w.spec.min_gpu_percent, w.gpu_percent)
    if not why:
        return None
    text = f"{w.name} fell to the CPU: {why}."
    return _found(Kind.ON_CPU, w, text, memory.last.get(w.digest), now, here)


# --- what else is there ------------------------------------------------------------------------


def _of_others(desired: Desired, wanted: set[str], memory: Memory, now: Observation) -> list[Found]:
    """What is loaded and not wanted: ghosts; and, where something is desired, foreign models."""
    found = []
    for r in now.resident:
        if r.digest in wanted:
            continue
        why = ghost_text(r, now.installed, now.at, desired.model_copies, now.clock_ahead_s)
        if why:
            found.append(_other(Kind.GHOST, r, why, desired, memory, now))
        elif desired.active or desired.pinned:
            size = f"{gb(_bytes(r))} GB"
            text = f"{_name(r, desired)} is loaded, is not to be, and takes {size}."
            found.append(_other(Kind.FOREIGN, r, text, desired, memory, now))
    return found


def ghost_text(
    r: Resident,
    installed: Iterable[Installed],
    at: datetime,
    model_copies: Mapping[ModelName, ModelName],
    clock_ahead_s: float = 0.0,
) -> str:
    """Why a resident model is a ghost: its name does not reach it any more (facts 23, 24), or its
    time is over and it is still there. Empty if it is none."""
    size = f"{gb(_bytes(r))} GB"
    name = model_copies.get(r.name, r.name)
    row = find_installed(installed, name)
    if row is None:
        return f"{name} was deleted while it was loaded, and still holds {size}."
    if row.digest != r.digest:
        return f"{name} means other content now; the old one is still loaded and holds {size}."
    if _overdue(r, at + timedelta(seconds=clock_ahead_s)):
        return f"{name} was due to unload at {_clock(r.expires_at)} and still holds {size}."
    return ""


def _overdue(r: Resident, server_time: datetime) -> bool:
    late = timedelta(seconds=GHOST_AFTER_S)
    return r.expires_at is not None and server_time - r.expires_at > late


def _other(
    kind: Kind, r: Resident, text: str, desired: Desired, memory: Memory, now: Observation
) -> Found:
    evidence = {
        "wanted": None,
        "before": _facts(memory.last.get(r.digest)),
        "now": _facts(Seen(r, now.at)),
    }
    return Found(kind, _name(r, desired), r.digest, text, evidence)


# --- words and evidence ------------------------------------------------------------------------

_TOLERANCE = timedelta(seconds=TOLERANCE_S)
_MOVED = timedelta(seconds=2)


def _found(
    kind: Kind, w: Wanted, text: str, last: Seen | None, now: Observation, here: Resident | None
) -> Found:
    wanted = {
        "model": w.name.short,
        "digest": w.digest,
        "role": "active" if w.active else "pinned",
        "keep_alive": w.spec.keep_alive,
        "context_length": w.context or None,
        "gpu_percent": w.gpu_percent,
        "min_gpu_percent": w.spec.min_gpu_percent,
    }
    seen = _facts(Seen(here, now.at)) if here else {"at": now.at.isoformat(), "resident": []}
    evidence = {"wanted": wanted, "before": _facts(last), "now": seen}
    # What is not on the disk has no digest: its name stands for it.
    return Found(kind, w.name.short, w.digest or w.name.full[:80], text, evidence)


def _facts(seen: Seen | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return seen.row.to_json() | {"gpu_percent": seen.row.gpu_percent, "at": seen.at.isoformat()}


def _reading(seen: Observation | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return {"at": seen.at.isoformat(), "resident": [r.name.short for r in seen.resident]}


def _server_time(now: Observation) -> datetime:
    """Now, by the clock that expiries are written by."""
    return now.at + timedelta(seconds=now.clock_ahead_s)


def _name(r: Resident, desired: Desired) -> str:
    """What people know it as: a copy of ours goes by the name of what it is a copy of."""
    return desired.model_copies.get(r.name, r.name).short


def _bytes(r: Resident) -> int:
    return r.size_vram or r.size


def _clock(at: datetime | None) -> str:
    return f"{at:%H:%M:%S}" if at else "a time that is not known"
