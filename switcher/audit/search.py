"""Finds entries by their columns, with the ORM and the database's full-text search.

Callers page by the number of an entry: entries before it, newest first, or entries after it, oldest
first.
"""

from __future__ import annotations

from datetime import datetime

from django.db import connection
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Coalesce

from switcher.audit.filters import GROUPS, Filters, group_of
from switcher.audit.ledger_reader import MAX_SEQ
from switcher.audit.reviews import REVIEWED
from switcher.audit.text_index import has_words
from switcher.models import AuditEntry, Review
from switcher.models.trail import refuse_unreadable

# Numbers follow time unless the clock was set back, so the first number of a time range is searched
# for among this many entries at its edge.
EDGE = 1_000
MAX_VALUES = 200
_INDEXED = {"kind", "host", "model", "actor"}


def matching(filters: Filters, after: int = 0, before: int = MAX_SEQ) -> QuerySet[AuditEntry]:
    """Return the entries between two numbers that match all filters, unordered."""
    equal = {
        name: value for name in ("host", "model", "actor") if (value := getattr(filters, name))
    }
    if any("\0" in value for value in (*equal.values(), filters.kind)):
        return AuditEntry.objects.none()  # PostgreSQL rejects such text, even in comparisons
    rows = _between(filters.since, filters.until, after, before).filter(**equal)
    if filters.kind:
        rows = rows.filter(kind__in=kinds_of(filters.kind))
    if filters.outcome:
        # The first condition repeats that of the partial index: neither database derives it.
        rows = rows.exclude(outcome="").filter(outcome=filters.outcome)
    if filters.text:
        rows = rows.filter(has_words(filters.text))
    if filters.unreviewed:
        reviews = Review.objects.filter(seq=OuterRef("seq"))
        # Marks need no review themselves: that would never end.
        rows = rows.exclude(kind=REVIEWED).filter(~Exists(reviews))
    return rows


def _between(
    since: datetime | None, until: datetime | None, after: int, before: int
) -> QuerySet[AuditEntry]:
    """Return the entries of a time range between two numbers. The time range is converted to a
    range of numbers, so that an ordered query reads nothing else.

    The query has only one lower and one upper bound, as SQLite may choose the wrong one of two. The
    times are compared as expressions: a database might otherwise use its index of times, and sort
    the result.
    """
    at = AuditEntry.objects.filter(seq__lt=MAX_SEQ).values_list("seq", flat=True)
    rows = AuditEntry.objects.alias(time=Coalesce("at", "at"))
    if since is not None:
        near = at.filter(at__gte=since).order_by("at")[:EDGE]
        after = max(after, min(near, default=MAX_SEQ) - 1)
        rows = rows.filter(time__gte=since)
    if until is not None:
        near = at.filter(at__lte=until).order_by("-at")[:EDGE]
        before = min(before, max(near, default=0) + 1)
        rows = rows.filter(time__lte=until)
    return rows.filter(seq__gt=after, seq__lt=before)


def kinds_of(name: str) -> tuple[str, ...]:
    """Return the kinds in the trail that a kind or a group of kinds stands for."""
    if name not in GROUPS:
        return (name,)
    return tuple(kind for kind in distinct_values("kind") if group_of(kind) == name)


def distinct_values(column: str, limit: int = MAX_VALUES) -> tuple[str, ...]:
    """Return the values of an indexed column in order, without the empty one.

    It makes one index look-up per value: SELECT DISTINCT would read the index of every entry.
    """
    assert column in _INDEXED
    table = AuditEntry._meta.db_table
    next_value = f"SELECT min({column}) FROM {table} WHERE {column} > "
    sql = (
        f"WITH RECURSIVE v(value) AS (SELECT ({next_value} '') UNION ALL "
        f"SELECT ({next_value} v.value) FROM v WHERE v.value IS NOT NULL) "
        f"SELECT value FROM v WHERE value IS NOT NULL LIMIT {limit}"
    )
    with refuse_unreadable(table), connection.cursor() as cursor:
        cursor.execute(sql)
        return tuple(str(value) for (value,) in cursor.fetchall())
