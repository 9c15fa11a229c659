"""Creates frozen dataclasses from rows and from other dataclasses, groups values, and pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

from django.db.models import Model, QuerySet

K = TypeVar("K")
T = TypeVar("T")
Row = TypeVar("Row", bound=Model)


def from_row(kind: type[T], row: Any, /, **values: Any) -> T:
    """Return a dataclass whose fields come from `values` or else from the row's columns of the same
    names."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: values[name] if name in values else getattr(row, name) for name in names})


def grouped(pairs: Iterable[tuple[K, T]]) -> defaultdict[K, tuple[T, ...]]:
    """Return the values of each key, in order; nothing for a key that has none."""
    found: defaultdict[K, tuple[T, ...]] = defaultdict(tuple)
    for key, value in pairs:
        found[key] += (value,)
    return found


def newest_first(
    rows: QuerySet[Row], limit: int, before: int | None = None, after: int | None = None
) -> list[Row]:
    """Return one page: the newest rows before an id, or the oldest ones after one. A page begins
    at a key instead of an offset, so that new rows do not shift it.
    """
    if after is not None:
        return list(rows.filter(pk__gt=after).order_by("pk")[:limit])[::-1]
    older = rows if before is None else rows.filter(pk__lt=before)
    return list(older.order_by("-pk")[:limit])
