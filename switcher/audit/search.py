"""Entries found by what the index holds of them, in their order and in bounded time.

Each filter alone has an index in the order of the entries. Of several, the one that reaches
furthest with the same number of entries is followed, and the others are looked at entry by entry.
After so many entries the search stops, says how far it came, and can be gone on with: no question
reads the whole trail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from switcher.audit.filters import GROUPS, Filters, group_of
from switcher.audit.ledger_reader import MAX_SEQ
from switcher.audit.review_marks import REVIEWED
from switcher.audit.text_index import ENTRY, HAS_REASON, VECTOR, WORDS, words_of
from switcher.models.trail import refuse_unreadable

# Candidates that are looked at, step by step, until a page is full.
STEPS = (200, 1_000, 3_000)
PROBE = 1_000
# Entries at the edge of a time range among which the first number is looked for: the clock may
# have been set back.
EDGE = 200
# PostgreSQL's index of words knows no order: it is followed where it holds few entries.
MAX_BY_WORDS = 5_000


@dataclass(frozen=True, slots=True)
class Found:
    """Numbers of entries, in the order in which they were looked for.

    `went_to` is the last number that was looked at where the search stopped before it had found
    as many as were wanted; None where it has found them, or there are no more. `more`: there may
    be more behind these.
    """

    seqs: tuple[int, ...]
    went_to: int | None
    more: bool


class Source(NamedTuple):
    """An index to follow: `branches` are conditions that exclude one another, each with its
    parameters; `column` is the entry's number there."""

    name: str
    branches: tuple[tuple[str, tuple[Any, ...]], ...]
    table: str = ENTRY
    column: str = "seq"


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, and in which order."""

    low: int
    high: int
    newest_first: bool = True

    @property
    def order(self) -> str:
        return "DESC" if self.newest_first else "ASC"

    def behind(self, seq: int) -> Range:
        """What is left after this number."""
        if self.newest_first:
            return Range(self.low, seq - 1, True)
        return Range(seq + 1, self.high, False)

    @property
    def empty(self) -> bool:
        return self.low > self.high


def find(
    filters: Filters,
    want: int,
    *,
    before: int | None = None,
    after: int | None = None,
    upto: int = MAX_SEQ,
    steps: Sequence[int] = STEPS,
) -> Found:
    """The `want` newest entries before a number; with `after` the oldest ones behind it, none
    beyond `upto`."""
    where = _range(filters, before, after, upto)
    sources = _sources(filters)
    if where.empty or sources is None:
        return Found((), None, False)
    source, others, words = _choose(filters, sources, where)
    exact, values = _condition(filters, others)
    if not exact and not words:
        seqs = _candidates(source, where, want)
        return Found(tuple(seqs), None, len(seqs) == want)
    found: list[int] = []
    for most in steps:
        batch = _Batch(source, where, most, exact, values, words)
        found += batch.matching(want - len(found))
        if len(found) >= want:
            return Found(tuple(found[:want]), None, True)
        end = batch.end()
        if end is None:
            return Found(tuple(found), None, False)
        where = where.behind(end)
    return Found(tuple(found), end, True)


def kinds_of(name: str) -> tuple[str, ...]:
    """The kinds in the trail that a kind or a group names."""
    if name not in GROUPS:
        return (name,)
    return tuple(kind for kind in distinct("kind") if group_of(kind) == name)


_COLUMNS = {"kind", "host", "model", "actor"}


def distinct(column: str, most: int = 200) -> tuple[str, ...]:
    """The values of a column that has an index, in their order: one look-up for each value,
    however many entries have it."""
    assert column in _COLUMNS
    step = f"SELECT min({column}) FROM {ENTRY} WHERE {column} > "
    with refuse_unreadable(ENTRY), connection.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE v(value) AS (SELECT ({step} '') UNION ALL "
            f"SELECT ({step} v.value) FROM v WHERE v.value IS NOT NULL) "
            f"SELECT value FROM v WHERE value IS NOT NULL LIMIT {most}"
        )
        return tuple(str(row[0]) for row in cursor.fetchall())


# -- Where to look


def _range(filters: Filters, before: int | None, after: int | None, upto: int) -> Range:
    low, high = 1, upto
    if filters.since is not None:
        low = _edge("min", "at >= %s", "ASC", filters.since, MAX_SEQ)
    if filters.until is not None:
        high = min(high, _edge("max", "at <= %s", "DESC", filters.until, 0))
    if after is not None:
        return Range(max(low, after + 1), high, newest_first=False)
    return Range(low, high if before is None else min(high, before - 1))


def _edge(pick: str, condition: str, order: str, at: datetime, without: int) -> int:
    """The first or last number of a time range. Numbers follow time but where the clock was set
    back, so that the nearest few are looked at."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {pick}(seq) FROM (SELECT seq FROM {ENTRY} WHERE {condition} AND seq < %s "
            f"ORDER BY at {order} LIMIT {EDGE}) edge",
            [as_stored(at), MAX_SEQ],
        )
        found: int | None = cursor.fetchone()[0]
    return without if found is None else found


def as_stored(at: datetime) -> Any:
    """A moment as a column of this database has it."""
    return connection.ops.adapt_datetimefield_value(at)


def _sources(filters: Filters) -> list[Source] | None:
    """The indexes that could be followed; None where a filter fits nothing at all."""
    if "\0" in filters.host + filters.model + filters.actor + filters.kind:
        return None  # PostgreSQL takes no such text, not even to compare
    found = []
    for column in ("host", "model", "actor"):
        value = getattr(filters, column)
        if value:
            found.append(Source(column, ((f"{column} = %s", (value,)),)))
    if filters.outcome:
        # Said twice: only so does a database see that its index of outcomes is meant.
        condition = "NOT (outcome = '') AND outcome = %s"
        found.append(Source("outcome", ((condition, (filters.outcome,)),)))
    if filters.kind:
        kinds = kinds_of(filters.kind)
        if not kinds:
            return None
        found.append(Source("kind", tuple(("kind = %s", (kind,)) for kind in kinds)))
    if filters.text:
        words = words_of(filters.text)
        if not words:
            return None
        by_words = _by_words(words)
        if by_words is not None:
            found.append(by_words)
    return found


def _by_words(words: tuple[str, ...]) -> Source | None:
    if connection.vendor == "sqlite":
        query = " AND ".join(f'"{word}"' for word in words)
        return Source("text", ((f"{WORDS} MATCH %s", (query,)),), WORDS, "rowid")
    query = " & ".join(f"'{word}'" for word in words)
    fits = f"FROM {ENTRY} WHERE {VECTOR} @@ to_tsquery('simple', %s)"
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) SELECT 1 {fits}", [query])
        if cursor.fetchone()[0][0]["Plan"]["Plan Rows"] > MAX_BY_WORDS:
            return None
        # In no order: else the planner may walk through the whole table in its own.
        most = MAX_BY_WORDS + 1
        cursor.execute(f"SELECT seq {fits} AND {HAS_REASON} LIMIT {most}", [query])
        seqs = [row[0] for row in cursor.fetchall()]
    return None if len(seqs) == most else Source("text", (("seq = ANY(%s)", (seqs,)),))


def _choose(
    filters: Filters, sources: list[Source], where: Range
) -> tuple[Source, list[Source], tuple[str, ...]]:
    """The source to follow, the others, and the words that each entry has to be looked at for."""
    words = words_of(filters.text)
    if not sources:
        return Source("all", (("1 = 1", ()),)), [], words
    best = sources[0]
    if len(sources) > 1:
        best = min(sources, key=lambda source: _reach(source, where))
    others = [s for s in sources if s is not best and s.name != "text"]
    return best, others, () if best.name == "text" else words


def _reach(source: Source, where: Range) -> tuple[int, int]:
    """How near its next PROBE entries stay, and how many they are: what is smallest leads
    furthest."""
    end, many = _Batch(source, where, PROBE, "", (), ()).extent()
    if many < PROBE or end is None:
        return -MAX_SEQ, many
    return end if where.newest_first else -end, many


def _condition(filters: Filters, others: list[Source]) -> tuple[str, tuple[Any, ...]]:
    """What else an entry has to fit, beside the source that is followed."""
    parts, values = [], list[Any]()
    for source in others:
        parts.append("(" + " OR ".join(text for text, _ in source.branches) + ")")
        values += [value for _, given in source.branches for value in given]
    if filters.since is not None:
        parts.append("at >= %s")
        values.append(as_stored(filters.since))
    if filters.until is not None:
        parts.append("at <= %s")
        values.append(as_stored(filters.until))
    if filters.unreviewed:
        # A mark is no work of its own to be reviewed: that would never end.
        parts.append(
            f"kind <> '{REVIEWED}' AND NOT EXISTS "
            f"(SELECT 1 FROM switcher_review r WHERE r.seq = {ENTRY}.seq)"
        )
    return " AND ".join(parts), tuple(values)


# -- Looking


def _sql(source: Source, where: Range, most: int) -> tuple[str, list[Any]]:
    """The next `most` numbers of a source, in order."""
    parts, values = [], list[Any]()
    for condition, given in source.branches:
        parts.append(
            f"SELECT {source.column} AS seq FROM {source.table} WHERE {condition} "
            f"AND {source.column} BETWEEN %s AND %s "
            f"ORDER BY {source.column} {where.order} LIMIT {most}"
        )
        values += [*given, where.low, where.high]
    if len(parts) == 1:
        return parts[0], values
    each = " UNION ALL ".join(f"SELECT seq FROM ({p}) b{n}" for n, p in enumerate(parts))
    return f"SELECT seq FROM ({each}) u ORDER BY seq {where.order} LIMIT {most}", values


def _candidates(source: Source, where: Range, most: int) -> list[int]:
    sql, values = _sql(source, where, most)
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return [row[0] for row in cursor.fetchall()]


# Each candidate is looked up by its number: neither planner may read the whole table instead.
_EACH = {
    "sqlite": f"CROSS JOIN {ENTRY}",
    "postgresql": f"CROSS JOIN LATERAL (SELECT * FROM {ENTRY} WHERE seq = c.seq OFFSET 0) {ENTRY}",
}

_HOLDS = {"sqlite": "LIKE", "postgresql": "ILIKE"}  # of either case


class _Batch:
    """The next `most` candidates of a source, and what else they have to fit."""

    def __init__(
        self,
        source: Source,
        where: Range,
        most: int,
        condition: str,
        values: tuple[Any, ...],
        words: tuple[str, ...],
    ) -> None:
        self._sql, self._values = _sql(source, where, most)
        self._where, self._most = where, most
        self._condition, self._more_values = condition, values
        self._words = frozenset(words)

    def matching(self, want: int) -> list[int]:
        """Those that fit, `want` at most."""
        fits = [f"{ENTRY}.seq = c.seq"]
        fits += [self._condition] if self._condition else []
        fits += [HAS_REASON] if self._words else []
        # Those of other letters are compared here alone: not every database knows their cases.
        plain = [f"%{word}%" for word in self._words if word.isascii()]
        fits += [f"reason {_HOLDS[connection.vendor]} %s"] * len(plain)
        sql = (
            f"SELECT {ENTRY}.seq, reason FROM ({self._sql}) c {_EACH[connection.vendor]} "
            f"WHERE {' AND '.join(fits)} ORDER BY c.seq {self._where.order}"
        )
        if not self._words:
            sql += f" LIMIT {want}"
        with connection.cursor() as cursor:
            cursor.execute(sql, [*self._values, *self._more_values, *plain])
            rows = cursor.fetchall()
        # As text: SQLite keeps bytes there, too.
        seqs = [seq for seq, reason in rows if self._words <= set(words_of(str(reason)))]
        return seqs[:want]

    def end(self) -> int | None:
        """The last candidate's number; None where there are fewer than so many."""
        last, many = self.extent()
        return last if many >= self._most else None

    def extent(self) -> tuple[int | None, int]:
        """The last candidate's number, and how many they are."""
        last = "min" if self._where.newest_first else "max"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {last}(seq), count(*) FROM ({self._sql}) c", self._values)
            found: tuple[int | None, int] = cursor.fetchone()
        return found
