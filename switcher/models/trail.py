"""What the tables of the audit trail have in common: an unreadable row raises TrailUnreadable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from django.db import DatabaseError, DataError, models

from switcher.domain.errors import TrailUnreadable

Row = TypeVar("Row", bound=models.Model)

# What the drivers, Django's conversions and `from_db` raise for a value of another type.
_UNREADABLE = (DatabaseError, ValueError, TypeError, AttributeError, OverflowError)

_TYPES: tuple[tuple[type[models.Field[Any, Any]], Any], ...] = (
    (models.DateTimeField, datetime),
    (models.BinaryField, bytes | memoryview),
    (models.IntegerField, int),
    (models.ForeignKey, int),
    (models.CharField, str),
    (models.TextField, str),
)


@contextmanager
def refuse_unreadable(table: str) -> Iterator[None]:
    """Raise TrailUnreadable if a row of this table holds values of the wrong type."""
    try:
        yield
    except _UNREADABLE as exc:
        if not _is_about_a_value(exc):
            raise
        raise TrailUnreadable(
            f"The audit trail cannot be read: table {table} holds a value that is not of its "
            "column's type. It was changed from outside of Switchboard. "
            "`manage.py audit verify --index` says where."
        ) from exc


def _is_about_a_value(exc: Exception) -> bool:
    """Return whether the error is about an unreadable value: SQLite's driver uses the same
    exceptions for locks and missing tables."""
    if not isinstance(exc, DatabaseError):
        return True
    return isinstance(exc, DataError) or "Could not decode" in str(exc)


class TrailQuerySet(models.QuerySet[Row]):
    """A query over rows of the trail. Every query goes through here, so no other code has to handle
    unreadable rows.
    """

    def _fetch_all(self) -> None:
        with refuse_unreadable(self.model._meta.db_table):
            super()._fetch_all()

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with refuse_unreadable(self.model._meta.db_table):
            return super().aggregate(*args, **kwargs)


class TrailRow(models.Model):
    """A row of one of the trail's tables."""

    objects = TrailQuerySet.as_manager()

    class Meta:
        abstract = True

    @classmethod
    def from_db(cls, *args: Any, **options: Any) -> Self:
        """Load a row. Raises ValueError for a value of the wrong type, which SQLite would store."""
        row = super().from_db(*args, **options)
        for field in cls._meta.concrete_fields:
            value = row.__dict__.get(field.attname, _DEFERRED)
            if value is not _DEFERRED and not _fits(field, value):
                raise ValueError(f"{field.name} holds {value!r}")
        return row


_DEFERRED = object()


def _fits(field: models.Field[Any, Any], value: Any) -> bool:
    if value is None:
        return field.null
    if isinstance(value, datetime):
        value.astimezone(UTC)  # OverflowError for a time that UTC does not have
    return all(isinstance(value, held) for kind, held in _TYPES if isinstance(field, kind))


_COLUMNS = {
    "sqlite": "SELECT name FROM pragma_table_info(%s)",
    "postgresql": "SELECT attname FROM pg_attribute "
    "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
}


def columns_of(cursor: Any, table: str) -> set[str]:
    """Return the columns that a table has now; none if there is no such table.

    Django's introspection would parse the table's whole definition, which takes a hundred times as
    long.
    """
    cursor.execute(_COLUMNS[cursor.db.vendor], [table])
    return {name for (name,) in cursor.fetchall()}
