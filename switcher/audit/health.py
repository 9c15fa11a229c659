"""The health of the trail: its entries, its key, its seals and its sinks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from switcher.audit import immutability_triggers
from switcher.audit.checkpoints import key_problem
from switcher.audit.ledger import changed
from switcher.audit.status import TrailStatus, trail_status
from switcher.domain.clock import Clock, system

# The reason is only in the log, since it can be any exception.
UNKNOWN = "The state of the audit trail could not be read. The server's log says why."

# /health is public, and the reason names a path.
KEY_UNUSABLE = "The signing key cannot be used."

_problems: tuple[str, ...] = ()


def problems() -> tuple[str, ...]:
    """Return the problems that this process found last, as sentences. Makes no query."""
    return _problems


def forget() -> None:
    """Forget the problems, for a new start in the same process."""
    global _problems
    _problems = ()


@dataclass(frozen=True, slots=True)
class Health:
    """The health of the trail, without secrets."""

    trail: TrailStatus
    key: str  # why the signing key cannot be used; empty if it can
    triggers: tuple[str, ...]  # the seals that are missing or altered

    @property
    def problems(self) -> tuple[str, ...]:
        found = [self.key] if self.key else []
        if self.triggers:
            found.append(
                f"Seals of the database are missing or altered: {', '.join(self.triggers)}."
            )
        return (*found, *self.trail.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the document of `/health`: counts, times and sentences, no path and no address."""
        trail = self.trail
        return {
            "ok": not self.problems,
            "problems": [KEY_UNUSABLE if text == self.key else text for text in self.problems],
            "audit": {
                "entries": trail.entries,
                "signed": trail.signed,
                "last_checkpoint_at": _iso(trail.signed_at),
                "last_checkpoint_age_s": _age_s(trail.signed_at, trail.now),
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


def _age_s(at: datetime | None, now: datetime) -> float | None:
    return round((now - at) / timedelta(seconds=1), 1) if at else None


def health(clock: Clock = system) -> Health:
    """Check the trail now, and keep the problems for the pages of this process."""
    try:
        triggers = tuple(immutability_triggers.differing())
        found = Health(trail_status(clock.now()), key_problem(), triggers)
    except Exception:
        _keep((UNKNOWN,))
        raise
    _keep(found.problems)
    return found


def _keep(problems: tuple[str, ...]) -> None:
    global _problems
    if problems != _problems:
        _problems = problems
        changed.send_robust(sender="health")  # the pages show them
