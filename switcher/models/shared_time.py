"""The time by which leases and heartbeats are compared, the same for all processes of a database.

Wall clocks are not: those of two machines differ, and each of them may jump. So on PostgreSQL the
database's clock decides. SQLite's processes share a machine, and with it the monotonic clock, which
no change of the wall clock moves; it is written as if it had begun in 1970.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.db import connection

from switcher.domain.clock import Clock, SystemClock, system

MONOTONIC_ZERO = datetime(1970, 1, 1, tzinfo=UTC)
# How far the database server's clock may be set back without freeing leases that are in use.
MAX_STEP_BACK_S = 60.0
# Between asking for the time and comparing it another process may write a newer one.
MAX_PAUSE_S = 5.0


def shared_now(clock: Clock = system) -> datetime:
    """Return the time that leases and heartbeats are compared by; not a time to show to people."""
    if _database_decides(clock):
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            now: datetime = cursor.fetchone()[0]
        return now.astimezone(UTC)
    return MONOTONIC_ZERO + timedelta(seconds=clock.monotonic())


def furthest_ahead(seconds: float, clock: Clock = system) -> timedelta:
    """Return how far ahead of now a time may lie that is written `seconds` ahead.

    A time further ahead was written before the machine's last boot, by an earlier release (in wall
    time), or before the database server's clock was set back. It would be in force for hours, so it
    counts as past.
    """
    slack_s = MAX_STEP_BACK_S if _database_decides(clock) else MAX_PAUSE_S
    return timedelta(seconds=seconds + slack_s)


def _database_decides(clock: Clock) -> bool:
    return isinstance(clock, SystemClock) and connection.vendor == "postgresql"
