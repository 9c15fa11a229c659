"""The words of the reasons, to be searched: FTS5 on SQLite, a GIN index on PostgreSQL.

Made after every migrate and not by one migration: on SQLite a migration that rebuilds the table
drops its triggers without a word. Both engines find whole words, whatever their case, and cut at
everything that is neither letter nor digit.
"""

from __future__ import annotations

import re
from typing import Any

from django.db import connections, transaction

from switcher.models.trail import columns_of

ENTRY, WORDS = "switcher_auditentry", "switcher_auditentry_words"

# PostgreSQL's own parser would take `INC-4711` apart into `inc` and `-4711`.
VECTOR = "to_tsvector('simple', regexp_replace(reason, '[^[:alnum:]]+', ' ', 'g'))"
HAS_REASON = "NOT (reason = '')"

_POSTGRES = {
    "entry_by_words": (
        f"CREATE INDEX entry_by_words ON {ENTRY} USING gin ({VECTOR}) WHERE {HAS_REASON}"
    ),
    # How common a word is: the planner asks no partial index for it.
    "entry_words": f"CREATE STATISTICS entry_words ON ({VECTOR}) FROM {ENTRY}",
}
_THERE = (
    "SELECT relname FROM pg_class WHERE oid = to_regclass('entry_by_words') UNION "
    "SELECT stxname FROM pg_statistic_ext WHERE stxrelid = to_regclass(%s)"
)
# No positions and no sizes: nobody asks for phrases or ranks, and it is a third as large.
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


def index_words(using: str = "default") -> None:
    """Make the index where it is missing. Safe to run at any time; connected to post_migrate."""
    connection = connections[using]
    with transaction.atomic(using), connection.cursor() as cursor:
        tables = set(connection.introspection.table_names(cursor))
        if not {"seq", "reason"} <= columns_of(cursor, ENTRY):
            # A version from before there was something to index.
            if connection.vendor == "sqlite" and WORDS in tables:
                cursor.execute(f"DROP TABLE {WORDS}")
            return
        if connection.vendor == "postgresql":
            cursor.execute(_THERE, [ENTRY])
            there = {name for (name,) in cursor.fetchall()}
            for name in _POSTGRES.keys() - there:
                cursor.execute(_POSTGRES[name])
            return
        if WORDS not in tables:
            cursor.execute(_TABLE)
            rebuild_words(using)
        elif not _are_there(cursor):
            rebuild_words(using)  # rows were written that it was not told of
        for name, text in _TRIGGERS.items():
            cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
            cursor.execute(f"CREATE TRIGGER {name} {text}")


def _are_there(cursor: Any) -> bool:
    cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    return _TRIGGERS.keys() <= {name for (name,) in cursor.fetchall()}


def rebuild_words(using: str = "default") -> None:
    """Make SQLite's index again from the rows; PostgreSQL keeps its own right."""
    if connections[using].vendor == "sqlite":
        with connections[using].cursor() as cursor:
            cursor.execute(f"INSERT INTO {WORDS}({WORDS}) VALUES ('rebuild')")


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text as both engines have them, each once, in lower case."""
    return tuple(dict.fromkeys(word.lower() for word in re.findall(r"[^\W_]+", text)))
