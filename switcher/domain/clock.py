"""Time as a dependency: the core asks a Clock, tests and simulations bring their own."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where the core gets its time from."""

    def now(self) -> datetime:
        """Wall-clock time, aware, UTC: what records show."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump: what durations are measured with."""
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
    """Whether a moment is no longer ago than that. One that is still to come is not: a clock was
    set back, or somebody has written it there, and nothing waits until then."""
    return timedelta(seconds=-1) <= now - at < span


def read_moment(text: str) -> datetime:
    """A time as ISO 8601 has it, in UTC; it is meant so unless it says otherwise. Raises
    ValueError, also at either end of time, where UTC has no such moment."""
    found = datetime.fromisoformat(text)
    try:
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError as exc:
        raise ValueError("Not a moment.") from exc
