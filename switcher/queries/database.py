"""What is wrong with the database, in words."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from django.apps import apps
from django.db import DatabaseError, InterfaceError, OperationalError, connection

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


LOCK_TIMEOUT_S = 0.5


def check_readable() -> str:
    """Return why the database cannot be read; empty if it can, and lacks no table."""
    try:
        with connection.cursor() as cursor:
            names = set(connection.introspection.table_names(cursor))
        missing = sorted(_tables() - names)
        return f"it lacks {', '.join(missing)}" if missing else ""
    except DatabaseError as exc:
        return reason_of(exc)


def _tables() -> set[str]:
    models = apps.get_models(include_auto_created=True)
    return {m._meta.db_table for m in models if m._meta.managed and not m._meta.proxy}


def check_writable() -> str:
    """Return why nothing can be written now; empty if it seems possible. Writes nothing."""
    try:
        if connection.vendor == "sqlite":
            _lock_sqlite(str(connection.settings_dict["NAME"]))
        else:
            with connection.cursor() as cursor:
                cursor.execute("SHOW transaction_read_only")
                return "it is read-only" if cursor.fetchone() == ("on",) else ""
    except (DatabaseError, sqlite3.Error) as exc:
        return reason_of(exc)
    return ""


def _lock_sqlite(name: str) -> None:
    """Take the lock for writing for a moment. Raises sqlite3.Error, after LOCK_TIMEOUT_S at most;
    Django's connection would wait for longer."""
    uri = f"{Path(name).as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, LOCK_TIMEOUT_S, isolation_level=None, uri=True)) as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")


def session_problem() -> str:
    """Return why nobody can be signed in; empty if that works."""
    with suppress(LookupError):
        try:
            apps.get_model("sessions", "Session").objects.exists()
        except DatabaseError as exc:
            return reason_of(exc)
    return ""
