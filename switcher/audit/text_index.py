"""Full text of the reasons: FTS5 on SQLite, a GIN index over a tsvector on PostgreSQL.

Both find whole words regardless of case, and split at everything that is neither letter nor digit.
The index is created again after every migration. A single migration could not create it once and
for all: on SQLite, a later migration that rebuilds the table silently drops its triggers.
"""

from __future__ import annotations

import re
from typing import Any

from django.db import connection, transaction
from django.db.models import BooleanField
from django.db.models.expressions import RawSQL

from switcher.models.trail import columns_of

ENTRY, WORDS = "switcher_auditentry", "switcher_auditentry_words"

# PostgreSQL's own parser would split `INC-4711` into `inc` and `-4711`.
VECTOR = "to_tsvector('simple', regexp_replace(reason, '[^[:alnum:]]+', ' ', 'g'))"
HAS_REASON = "NOT (reason = '')"

_POSTGRES = {
    "entry_by_words": (
        f"CREATE INDEX entry_by_words ON {ENTRY} USING gin ({VECTOR}) WHERE {HAS_REASON}"
    ),
    # The planner reads no statistics about words from a partial index.
    "entry_words": f"CREATE STATISTICS entry_words ON ({VECTOR}) FROM {ENTRY}",
}
_EXISTING_POSTGRES = (
    "SELECT relname FROM pg_class WHERE oid = to_regclass('entry_by_words') UNION "
    "SELECT stxname FROM pg_statistic_ext WHERE stxrelid = to_regclass(%s)"
)
# Without positions and sizes, which only phrases and ranks need, the index is a third as large.
_TABLE = (
    f"CREATE VIRTUAL TABLE {WORDS} USING fts5(reason, content='{ENTRY}', content_rowid='seq', "
    "detail=none, columnsize=0, tokenize='unicode61 remove_diacritics 0')"
)
_ADD = f"INSERT INTO {WORDS}(rowid, reason) VALUES (NEW.seq, NEW.reason);"
_DROP = f"INSERT INTO {WORDS}({WORDS}, rowid, reason) VALUES ('delete', OLD.seq, OLD.reason);"
_TRIGGERS = {
    "words_insert": f"AFTER INSERT ON {ENTRY} WHEN NEW.reason <> '' BEGIN {_ADD} END",
    "words_delete": f"AFTER DELETE ON {ENTRY} WHEN OLD.reason <> '' BEGIN {_DROP} END",
    "words_update_old": (
        f"BEFORE UPDATE OF seq, reason ON {ENTRY} WHEN OLD.reason <> '' BEGIN {_DROP} END"
    ),
    "words_update_new": (
        f"AFTER UPDATE OF seq, reason ON {ENTRY} WHEN NEW.reason <> '' BEGIN {_ADD} END"
    ),
}
_HAS_WORDS = {
    "sqlite": (
        f"{ENTRY}.seq IN (SELECT rowid FROM {WORDS} WHERE {WORDS} MATCH %s)",
        '"{}"',
        " AND ",
    ),
    "postgresql": (f"{HAS_REASON} AND {VECTOR} @@ to_tsquery('simple', %s)", "'{}'", " & "),
}


def has_words(text: str) -> RawSQL:
    """Return the condition that an entry's reason has all words of a text; false without words."""
    sql, quoted, operator = _HAS_WORDS[connection.vendor]
    words = [quoted.format(word) for word in words_of(text)]
    if not words:
        return RawSQL("1 = 0", (), output_field=BooleanField())
    return RawSQL(sql, (operator.join(words),), output_field=BooleanField())


def words_of(text: str) -> tuple[str, ...]:
    """Return the distinct words of a text as both databases split it, in lower case."""
    return tuple(dict.fromkeys(word.lower() for word in re.findall(r"[^\W_]+", text)))


def index_words() -> None:
    """Create the index if it is missing. Called after every migrate; safe at any time."""
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            _index_on_postgres(cursor)
        else:
            _index_on_sqlite(cursor, connection.introspection.table_names(cursor))


def _has_reasons(cursor: Any) -> bool:
    """Return whether the table has the indexed column; earlier versions' tables do not."""
    return {"seq", "reason"} <= columns_of(cursor, ENTRY)


def _index_on_postgres(cursor: Any) -> None:
    if not _has_reasons(cursor):
        return
    cursor.execute(_EXISTING_POSTGRES, [ENTRY])
    for name in _POSTGRES.keys() - {name for (name,) in cursor.fetchall()}:
        cursor.execute(_POSTGRES[name])


def _index_on_sqlite(cursor: Any, tables: list[str]) -> None:
    if not _has_reasons(cursor):
        cursor.execute(f"DROP TABLE IF EXISTS {WORDS}")
        return
    if WORDS not in tables:
        cursor.execute(_TABLE)
    cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    if WORDS not in tables or not _TRIGGERS.keys() <= {name for (name,) in cursor.fetchall()}:
        cursor.execute(_REBUILD)  # rows may have been written that it does not include
    for name, text in _TRIGGERS.items():
        cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
        cursor.execute(f"CREATE TRIGGER {name} {text}")


_REBUILD = f"INSERT INTO {WORDS}({WORDS}) VALUES ('rebuild')"


def rebuild_words() -> None:
    """Rebuild SQLite's index from the rows. PostgreSQL maintains its own index."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(_REBUILD)
