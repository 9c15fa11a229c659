"""A clock that stands still until a test advances it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

MONDAY_MORNING = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


class FakeClock:
    """A `switcher.domain.clock.Clock` whose sleeps return at once."""

    def __init__(self, at: datetime = MONDAY_MORNING) -> None:
        self._now = at
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.pass_time(seconds)

    def set_wall_clock(self, ahead_s: float) -> None:
        """Set the wall clock ahead, or back; the monotonic one does not notice."""
        self._now += timedelta(seconds=ahead_s)

    def pass_time(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
