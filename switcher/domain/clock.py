"""Time as a dependency: code asks a Clock, and tests and simulations pass their own."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """The source of time."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware and in UTC, for records."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump, to measure durations."""
        ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


system = SystemClock()


def is_within(span: timedelta, at: datetime, now: datetime) -> bool:
    """Return whether a time is less than `span` ago.

    For a future time, return False. Such a time comes from a clock that was set back or from a
    manipulated row, and nothing should wait for it.
    """
    return timedelta(seconds=-1) <= now - at < span


def read_moment(text: str) -> datetime:
    """Parse an ISO 8601 time and return it in UTC. Without an offset it is in UTC already. Raises
    ValueError, also for times that UTC cannot express."""
    found = datetime.fromisoformat(text)
    try:
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError as exc:
        raise ValueError("This time does not exist in UTC.") from exc
