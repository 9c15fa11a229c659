"""The one clock of a schedule: it moves only when the lab moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


class LabClock:
    """A `switcher.domain.clock.Clock`. `t` is seconds since EPOCH.

    `wall_offset_s` is how far the wall clock of Switchboard's machine has been set ahead.
    """

    def __init__(self, t: float = 0.0) -> None:
        self.t = t
        self.wall_offset_s = 0.0
        self.was_set = False

    def set_wall_clock(self, ahead_s: float) -> None:
        self.wall_offset_s += ahead_s
        self.was_set = True

    def now(self) -> datetime:
        return wall(self.t + self.wall_offset_s)

    def monotonic(self) -> float:
        return self.t

    def sleep(self, seconds: float) -> None:
        raise AssertionError("in the lab a pause is an effect: nothing sleeps")


def wall(t: float) -> datetime:
    """Return a moment of the simulation as wall-clock time."""
    return EPOCH + timedelta(seconds=t)
