"""Raise alarms: entries that say that something is wrong with the trail or its proofs."""

from __future__ import annotations

from datetime import datetime, timedelta

from switcher.audit.ledger import SERVER, append, writing
from switcher.audit.ledger_reader import index_row, newest_entry
from switcher.domain.clock import Clock, is_within, system

ALARM = "audit.alarm"
REPEAT_AFTER = timedelta(days=1)
MAX_TEXT = 500


def raise_alarm(about: str, text: str, clock: Clock = system) -> bool:
    """Append an alarm, the same text at most once a day across all processes. Return whether it was
    appended.
    """
    text = text[:MAX_TEXT]
    with writing():
        raised_at = _raised_at(text)
        if raised_at is not None and is_within(REPEAT_AFTER, raised_at, clock.now()):
            return False
        append(ALARM, SERVER, clock=clock, reason=text, about=about)
    return True


def _raised_at(text: str) -> datetime | None:
    """Return when this alarm was last raised. Read from the entry itself, so that an edited index
    cannot silence it."""
    newest = newest_entry(ALARM, reason=text)
    row = index_row(newest[1]) if newest is not None else None
    if row is None or (row["kind"], row["reason"]) != (ALARM, text):
        return None
    at: datetime = row["at"]
    return at


def describe_error(exc: Exception) -> str:
    """Describe an error in one line. The path is left out of errors about files."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    text = str(exc).encode("utf-8", "replace").decode().replace("\0", " ")
    return " ".join(f"{type(exc).__name__}: {text}".split())[:300].rstrip(".: ")
