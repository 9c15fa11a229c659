"""Drift: what a host should hold, what it was seen to hold, and the differences between the two.

The rules that find drift are in `drift_rules`. Pure: no I/O, no Django.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, Resident, find_installed
from switcher.domain.published_name import PublishedName
from switcher.domain.specs import Spec

OFFLINE_AFTER = 3  # readings in a row that failed
GHOST_AFTER_S = 30.0  # a model counts as overdue only after this: unloading takes some seconds
REMEMBER = timedelta(hours=1)


class Kind(StrEnum):
    """A kind of drift. The values are stored in the database and shown by the API."""

    EVICTED = "evicted"
    EXPIRED = "expired"
    RESTARTED = "restarted"
    MISSING = "missing"  # desired, but never seen loaded
    RELOADED = "reloaded"
    SHORTENED = "shortened"
    LENGTHENED = "lengthened"
    ON_CPU = "on-cpu"
    OTHER_CONTENT = "other-content"
    GHOST = "ghost"
    FOREIGN = "foreign"
    UNREACHABLE = "unreachable"
    SAME_SERVER = "same-server"  # as another host
    PUBLISHED = "published"  # the published name does not point to the active model
    FLAPPING = "flapping"  # back again after as many repairs as are allowed


# A desired model is not loaded.
GONE = frozenset({Kind.EVICTED, Kind.EXPIRED, Kind.RESTARTED, Kind.MISSING})
# Kinds that a switch to the active model repairs. With OTHER_CONTENT it would load content that
# nobody chose, FOREIGN belongs to somebody else, and an UNREACHABLE host accepts no calls.
REPAIRED = GONE | {Kind.RELOADED, Kind.ON_CPU}

WORDS: dict[Kind, str] = {
    Kind.EVICTED: "Evicted",
    Kind.EXPIRED: "Expired",
    Kind.RESTARTED: "Server restarted",
    Kind.MISSING: "Not loaded",
    Kind.RELOADED: "Other options",
    Kind.SHORTENED: "Keep-alive shortened",
    Kind.LENGTHENED: "Keep-alive lengthened",
    Kind.ON_CPU: "On the CPU",
    Kind.OTHER_CONTENT: "Other content",
    Kind.GHOST: "Ghost",
    Kind.FOREIGN: "Foreign model",
    Kind.UNREACHABLE: "Not reachable",
    Kind.SAME_SERVER: "Same server",
    Kind.PUBLISHED: "Published name",
    Kind.FLAPPING: "Keeps coming back",
}


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """A model that should be loaded. `gpu_percent` and `context_length` are those of its last
    activation on this host; None or 0 if unknown."""

    digest: str  # empty for a pinned model, which is identified by its name
    spec: Spec
    active: bool = False
    gpu_percent: int | None = None
    context_length: int = 0

    @property
    def name(self) -> ModelName:
        return self.spec.name

    @property
    def context(self) -> int:
        """Return the context length it should be loaded with; 0 if unknown. The verified length
        takes precedence over the profile's, because a server may allow less."""
        return self.context_length or self.spec.num_ctx or 0


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired state of a host."""

    host: str
    active: DesiredModel | None = None
    pinned: tuple[DesiredModel, ...] = ()
    model_copies: Mapping[ModelName, ModelName] = field(default_factory=dict)  # copy to model
    verified: Mapping[str, Resident] = field(default_factory=dict)  # after the last switch
    published: PublishedName | None = None

    def models(self, installed: Iterable[Installed]) -> tuple[DesiredModel, ...]:
        """Return the active model, then the pinned ones by the digests that their names point to
        now, without duplicates."""
        found = {self.active.digest: self.active} if self.active else {}
        rows = list(installed)
        for model in self.pinned:
            row = find_installed(rows, model.name)
            if row is None:
                found.setdefault(f"={model.name.full}", model)
            else:
                found.setdefault(row.digest, self._as_verified(model, row))
        return tuple(found.values())

    def _as_verified(self, model: DesiredModel, row: Installed) -> DesiredModel:
        """Return a pinned model with its GPU share and context length after the last switch. A
        server gives no more context than the model was trained for."""
        was, asked = self.verified.get(row.digest), model.spec.num_ctx or 0
        context = min(asked, row.most_context) if row.most_context else asked
        if was is None:
            return replace(model, digest=row.digest, context_length=context)
        context = context or was.context_length
        gpu_percent = was.gpu_percent
        return replace(model, digest=row.digest, context_length=context, gpu_percent=gpu_percent)


@dataclass(frozen=True, slots=True)
class LastSeen:
    """A resident model as it was last seen."""

    row: Resident
    at: datetime


@dataclass(frozen=True, slots=True)
class ReadingHistory:
    """What earlier readings showed. `previous` is the last one that succeeded, and `failures`
    counts those that have failed since; `open` holds the kind and digest of each open drift."""

    previous: Observation | None = None
    failures: int = 0
    last: Mapping[str, LastSeen] = field(default_factory=dict)  # by digest
    reconnected: bool = False  # at a reading that was not compared
    open: frozenset[tuple[str, str]] = frozenset()
    open_texts: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def after(self, now: Observation, compared: bool = True) -> ReadingHistory:
        """Return the history including this reading. If the reading was not compared but noticed a
        closed connection, that is kept as evidence for the next one."""
        if not now.answered:
            return replace(self, failures=self.failures + 1)
        kept = {d: seen for d, seen in self.last.items() if now.at - seen.at < REMEMBER}
        resident = {r.digest: LastSeen(r, now.at) for r in now.resident}
        reconnected = not compared and (self.reconnected or now.reconnected)
        return replace(
            self, previous=now, failures=0, last=kept | resident, reconnected=reconnected
        )

    def after_uncompared(self, now: Observation) -> ReadingHistory:
        """Return the history including a reading that was not compared although no switch was open.
        The next reading is compared with the one before it, so that no change is missed."""
        last = {**self.after(now).last, **self.last}
        return replace(self.after(now, compared=False), last=last)

    def has_open(self, kind: Kind, digest: str) -> bool:
        return (kind.value, digest) in self.open


@dataclass(frozen=True, slots=True)
class DriftFinding:
    """One difference that a reading shows, described in a sentence, with its evidence: what was
    desired, what was seen before and what is seen now, each with its time."""

    kind: Kind
    model: str
    digest: str
    text: str
    evidence: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return self.kind.value, self.digest


@dataclass(frozen=True, slots=True)
class OpenDrift:
    """A recorded drift that has not ended. `repair` is the switch that should repair it."""

    id: int
    kind: Kind
    model: str
    digest: str
    text: str
    since: datetime
    repair: int | None = None

    @classmethod
    def of(cls, row: Any) -> OpenDrift:
        """Return the drift that a database row describes."""
        kind, repair = Kind(row.kind), row.repair_id
        return cls(row.pk, kind, row.model, row.digest, row.text, row.since, repair)

    @property
    def key(self) -> tuple[str, str]:
        return self.kind.value, self.digest
