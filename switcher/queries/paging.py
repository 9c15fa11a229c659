"""Keyset paging: by key instead of offset, so that new rows do not shift the pages."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import Model, QuerySet

Row = TypeVar("Row", bound=Model)


def newest_first(
    rows: QuerySet[Row], limit: int, before: int | None = None, after: int | None = None
) -> list[Row]:
    """Return one page: the newest rows before an id, or the oldest ones after one."""
    if after is not None:
        return list(rows.filter(pk__gt=after).order_by("pk")[:limit])[::-1]
    older = rows if before is None else rows.filter(pk__lt=before)
    return list(older.order_by("-pk")[:limit])
