"""Columns that can be read whatever somebody has put into them, and which a table has.

SQLite keeps whatever it is given: a moment that is none, bytes where words belong, words where a
number does. Whoever may write to the database must not make the server blind with a single cell, so
the tables that tell of the trail have columns that read something of their type from anything. What
is evidence is in the bodies, which are verified; `audit verify --index` names the entry.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from django.db import models

from switcher.domain.clock import read_moment

# What stands for a moment that cannot be read.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class _AsItsParent:
    """The same column as the parent's: no migration."""

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()  # type: ignore[misc]
        parent = next(c for c in type(self).__mro__ if c.__module__.startswith("django."))
        return name, f"django.db.models.{parent.__name__}", args, kwargs


class _Words(_AsItsParent):
    def from_db_value(self, value: Any, *_: Any) -> str | None:
        return value if value is None else str(value)


class Chars(_Words, models.CharField):  # type: ignore[type-arg]
    """A few words; what are none are shown as Python writes them."""


class Text(_Words, models.TextField):  # type: ignore[type-arg]
    """The same for many words."""


class Number(_AsItsParent, models.BigIntegerField):  # type: ignore[type-arg]
    """A whole number; 0 where it is no number. A part of one more is one more: who reads on behind
    the last number that was read comes to an end."""

    def from_db_value(self, value: Any, *_: Any) -> int | None:
        if isinstance(value, float) and math.isfinite(value):
            return math.ceil(value)
        return value if value is None or isinstance(value, int) else 0


class Bytes(_AsItsParent, models.BinaryField):  # type: ignore[type-arg]
    """Bytes; none where they are something else."""

    def from_db_value(self, value: Any, *_: Any) -> bytes | None:
        if value is None:
            return None
        return bytes(value) if isinstance(value, bytes | memoryview) else b""


class Reference(_AsItsParent, models.ForeignKey):  # type: ignore[type-arg]
    """To another row by its number; to none where it is no number."""

    def from_db_value(self, value: Any, *_: Any) -> int | None:
        return value if isinstance(value, int) and value > 0 else None


class Moment(_AsItsParent, models.DateTimeField):  # type: ignore[type-arg]
    """A moment; NEVER where it is none, or one that Python cannot name.

    It is selected as text, which limits what a query may do with it: no sub-query that selects it,
    no difference of two, no ordering by its position.
    """

    def get_internal_type(self) -> str:
        return "Moment"  # of which the backend knows no conversion that could fail

    def db_type(self, connection: Any) -> str:
        found: str = connection.data_types["DateTimeField"]
        return found

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        """As text: both drivers convert what they are told to be a moment, and fail where it is
        none, as PostgreSQL's infinity. In JSON moments are ISO 8601, however PostgreSQL is set up.
        """
        if compiler.connection.vendor == "sqlite":
            return f"CAST({sql} AS BLOB)", params
        return f"to_json({sql})#>>'{{}}'", params

    def from_db_value(self, value: Any, *_: Any) -> datetime | None:
        if value is None:
            return None
        try:
            return read_moment(value if isinstance(value, str) else value.decode())
        except ValueError:
            return NEVER


def read_any_text(connection: Any, **_: Any) -> None:
    """Whenever a connection is made: words that are no UTF-8 are read all the same."""
    if connection.vendor == "sqlite":
        connection.connection.text_factory = _any_text


def _any_text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


_COLUMNS = {
    "sqlite": "SELECT name FROM pragma_table_info(%s)",
    "postgresql": "SELECT attname FROM pg_attribute "
    "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
}


def columns_of(cursor: Any, table: str) -> set[str]:
    """The columns that a table has now; none where it is not there. (Django's introspection parses
    the whole definition, which takes a hundred times as long.)"""
    cursor.execute(_COLUMNS[cursor.db.vendor], [table])
    return {name for (name,) in cursor.fetchall()}
