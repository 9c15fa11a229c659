"""Which columns a table has, and one that can be read whatever somebody has put into it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import models
from django.utils.dateparse import parse_datetime

# What stands for a moment that cannot be read.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(models.DateTimeField):  # type: ignore[type-arg]
    """A moment in a table that tells of the trail. SQLite keeps whatever it is given: where that is
    no moment, NEVER is read, so that nobody makes the server blind with a single cell. What is
    evidence is in the bodies, and `audit verify --index` names the entry."""

    def get_internal_type(self) -> str:
        return "Moment"  # of which the backend knows no conversion that could fail

    def db_type(self, connection: Any) -> str:
        found: str = connection.data_types["DateTimeField"]
        return found

    def deconstruct(self) -> Any:
        """The same column as a DateTimeField's: no migration."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.DateTimeField", args, kwargs

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        """As bytes: Python's driver would convert what it is told to be a moment, and fail."""
        if compiler.connection.vendor == "sqlite":
            sql = f"CAST({sql} AS BLOB)"
        return sql, params

    def from_db_value(self, value: Any, _: Any, connection: Any) -> datetime | None:
        if value is None or isinstance(value, datetime):
            return value
        try:
            found = parse_datetime(value.decode())
        except ValueError:
            found = None
        if found is None:
            return NEVER
        return found if found.tzinfo else found.replace(tzinfo=connection.timezone)


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
