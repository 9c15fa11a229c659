"""What is wrong with the database, in words."""

from __future__ import annotations

from django.db import DatabaseError, InterfaceError, OperationalError

# Parts of SQLite's and PostgreSQL's texts, in lower case.
_REASONS = (
    ("the disk is full", ("disk is full", "no space left", "disk full")),
    ("it is locked by another program", ("is locked", "lock timeout", "lock_timeout")),
    ("it is read-only", ("readonly", "read-only")),
    ("it cannot be opened", ("unable to open", "not a database", "malformed")),
    ("the disk reports an error", ("disk i/o error",)),
    ("it lacks a table or a column", ("no such table", "no such column", "does not exist")),
    ("it cannot be reached", ("connect", "shutting down", "starting up", "could not translate")),
)
UNKNOWN = "it does not answer as it should"


def reason_of(exc: object) -> str:
    """Return why the database cannot be used, such as "the disk is full", without secrets."""
    text = str(exc).lower()
    return next((reason for reason, parts in _REASONS if any(p in text for p in parts)), UNKNOWN)


def outage_of(exc: BaseException | None) -> str:
    """Return why the database could not be used, if that is what led to this error; empty if not:
    other errors of the database are mistakes of ours."""
    while exc is not None:
        if isinstance(exc, DatabaseError):
            reason = reason_of(exc)
            is_outage = isinstance(exc, OperationalError | InterfaceError) or reason != UNKNOWN
            return reason if is_outage else ""
        exc = exc.__cause__ or exc.__context__
    return ""


def explanation(reason: str) -> str:
    """Return the sentences for a request that was refused because of an outage."""
    return f"Switchboard's database cannot be used now: {reason}. Nothing was changed. Try again."
