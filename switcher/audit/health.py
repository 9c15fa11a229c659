"""Whether all is well with the trail, its key, its seals and its sinks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from switcher.audit import immutability_triggers
from switcher.audit.checkpoints import key_problem
from switcher.audit.ledger import changed
from switcher.audit.status import Trail, trail
from switcher.domain.clock import Clock, system

# Where it cannot be told. Why is for the log: nobody foresaw it.
UNKNOWN = "How the audit trail stands could not be read. The server's log says why."

_problems: tuple[str, ...] = ()


def problems() -> tuple[str, ...]:
    """What was wrong when this process last looked, in sentences: for pages, without a query."""
    return _problems


def forget() -> None:
    """Drop what was seen: for a new start in the same process."""
    global _problems
    _problems = ()


@dataclass(frozen=True, slots=True)
class Health:
    """Everything about the trail that may be told to anybody."""

    trail: Trail
    key: str  # a sentence if it cannot be used, else empty
    triggers: tuple[str, ...]  # those that are missing or altered

    @property
    def problems(self) -> tuple[str, ...]:
        found = [self.key] if self.key else []
        if self.triggers:
            found.append(
                f"Seals of the database are missing or altered: {', '.join(self.triggers)}."
            )
        return (*found, *self.trail.problems)

    def to_json(self) -> dict[str, Any]:
        """As `/health` tells it: counts, times and sentences, no path and no address."""
        trail = self.trail
        key = ("The signing key cannot be used.",) if self.key else ()
        return {
            "ok": not self.problems,
            "problems": [*key, *(text for text in self.problems if text != self.key)],
            "audit": {
                "entries": trail.entries,
                "signed": trail.signed,
                "last_checkpoint_at": _iso(trail.signed_at),
                "last_checkpoint_age_s": _age(trail.signed_at, trail.now),
                "key": "unusable" if self.key else "ok",
                "seals": "altered" if self.triggers else "ok",
                "sinks": [
                    {
                        "name": sink.name,
                        "ok": not sink.problem(trail.now),
                        "waiting": sink.waiting,
                        "delivered_at": _iso(sink.delivered_at),
                    }
                    for sink in trail.sinks
                ],
                "last_verified_at": _iso(trail.check.at if trail.check else None),
                "last_verified_ok": trail.check.ok if trail.check else None,
            },
        }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _age(at: datetime | None, now: datetime) -> float | None:
    return round((now - at) / timedelta(seconds=1), 1) if at else None


def health(clock: Clock = system) -> Health:
    """Look now. What is found is what pages show from here on, or that nothing can be told."""
    try:
        found = Health(trail(clock.now()), key_problem(), tuple(immutability_triggers.differing()))
    except Exception:
        _show((UNKNOWN,))
        raise
    _show(found.problems)
    return found


def _show(problems: tuple[str, ...]) -> None:
    global _problems
    if problems != _problems:
        _problems = problems
        changed.send_robust(sender="health")  # pages show them
