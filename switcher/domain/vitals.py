"""What parts of this process last said about themselves, in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vital:
    """A part's last word. It is overdue if no other one comes before `until` (monotonic)."""

    problem: str
    until: float

    def text(self, now: float) -> str:
        """Return what is wrong; empty if nothing is."""
        return self.problem or ("has not shown itself for too long" if now > self.until else "")


_vitals: dict[str, Vital] = {}


def note(part: str, problem: str, valid_s: float) -> None:
    """Note that a part lives. Thread-safe."""
    _vitals[part] = Vital(problem, time.monotonic() + valid_s)


def forget(part: str) -> None:
    """Forget a part that has ended or sleeps."""
    _vitals.pop(part, None)


def text_of(part: str) -> str | None:
    """Return what is wrong with a part; None if it does not run here."""
    vital = _vitals.get(part)
    return None if vital is None else vital.text(time.monotonic())
