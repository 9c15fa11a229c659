"""Triggers by which the database itself refuses to change the past.

An ended switch can never be changed or deleted, and an audit entry only after it was moved to an
archive file.

The triggers are dropped before every migration and created again after it. A single migration could
not create them once and for all: on SQLite, a later migration that rebuilds a table silently drops
the table's triggers, and fails if the trigger of another table reads it.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connection, transaction

from switcher.domain.states import ENDED
from switcher.models.trail import columns_of

_SWITCH, _ENTRY, _SEGMENT = "switcher_switchevent", "switcher_ledgerrow", "switcher_segment"
# The columns that the triggers read. Tables of older versions may lack some.
_COLUMNS = {
    _SWITCH: {"id", "state", "actor", "idempotency_key"},
    _ENTRY: {"seq", "body", "prev", "hash"},
    _SEGMENT: {"id", "first", "last", "entry", "sha256"},
}
_ENDED = ", ".join(f"'{s.value}'" for s in sorted(ENDED))
# An entry follows from the one before it.
_LAST = f"(SELECT MAX(seq) FROM {_ENTRY})"
_FOLLOWS = (
    f"NEW.seq = COALESCE({_LAST}, 0) + 1 "
    f"AND (NEW.seq = 1 OR NEW.prev = (SELECT hash FROM {_ENTRY} WHERE seq = {_LAST}))"
)
# Only what was moved to an archive file may be deleted. A file follows the one before it,
_MOVED = f"(SELECT COALESCE(MAX(last), 0) FROM {_SEGMENT})"
_NEXT = f"NEW.first = {_MOVED} + 1 AND NEW.last >= NEW.first AND NEW.last < NEW.entry"
# and an entry records it.
_RECORDED_SQLITE = (
    f"EXISTS (SELECT 1 FROM {_ENTRY} WHERE seq = NEW.entry "
    "AND json_extract(body, '$.kind') = 'audit.archived' "
    "AND json_extract(body, '$.facts.first') = NEW.first "
    "AND json_extract(body, '$.facts.last') = NEW.last "
    "AND json_extract(body, '$.facts.sha256') = NEW.sha256)"
)
_RECORDED_POSTGRES = (
    f"EXISTS (SELECT 1 FROM {_ENTRY} WHERE seq = NEW.entry "
    "AND body::json ->> 'kind' = 'audit.archived' "
    "AND body::json #>> '{facts,first}' = NEW.first::text "
    "AND body::json #>> '{facts,last}' = NEW.last::text "
    "AND body::json #>> '{facts,sha256}' = NEW.sha256)"
)

SQLITE = {
    "sealed_switch_update": f"BEFORE UPDATE ON {_SWITCH} WHEN OLD.state IN ({_ENDED})",
    "sealed_switch_delete": f"BEFORE DELETE ON {_SWITCH} WHEN OLD.state IN ({_ENDED})",
    # INSERT OR REPLACE deletes a row with the same id or idempotency key without firing a DELETE
    # trigger; these two refuse it.
    "sealed_switch_insert": (
        f"BEFORE INSERT ON {_SWITCH} WHEN EXISTS (SELECT 1 FROM {_SWITCH} WHERE id = NEW.id "
        "OR (NEW.idempotency_key <> '' AND idempotency_key = NEW.idempotency_key "
        "AND actor = NEW.actor))"
    ),
    "sealed_switch_identity": (
        f"BEFORE UPDATE OF id, actor, idempotency_key ON {_SWITCH} WHEN NEW.id <> OLD.id "
        "OR NEW.actor <> OLD.actor OR NEW.idempotency_key <> OLD.idempotency_key"
    ),
    "sealed_entry_update": f"BEFORE UPDATE ON {_ENTRY}",
    "sealed_entry_delete": f"BEFORE DELETE ON {_ENTRY} WHEN OLD.seq > {_MOVED}",
    # This also refuses INSERT OR REPLACE: a number that exists is not the next one.
    "sealed_entry_insert": f"BEFORE INSERT ON {_ENTRY} WHEN NOT ({_FOLLOWS})",
    "sealed_segment_update": f"BEFORE UPDATE ON {_SEGMENT}",
    "sealed_segment_delete": f"BEFORE DELETE ON {_SEGMENT}",
    "sealed_segment_insert": (
        f"BEFORE INSERT ON {_SEGMENT} WHEN NOT ({_NEXT} AND {_RECORDED_SQLITE}) "
        f"OR EXISTS (SELECT 1 FROM {_SEGMENT} WHERE id = NEW.id)"
    ),
}


def _function(name: str, body: str) -> str:
    return (
        f"CREATE OR REPLACE FUNCTION switcher_{name}() RETURNS trigger AS $$ "
        f"BEGIN {body} END $$ LANGUAGE plpgsql"
    )


_KEPT = "RAISE EXCEPTION 'sealed: this record is kept as it is';"
_FUNCTIONS = (
    _function("sealed", _KEPT),
    _function(
        "follows",
        f"IF NOT ({_FOLLOWS}) THEN RAISE EXCEPTION 'sealed: an entry follows from the last one'; "
        "END IF; RETURN NEW;",
    ),
    _function("moved", f"IF OLD.seq > {_MOVED} THEN {_KEPT} END IF; RETURN OLD;"),
    _function(
        "next_segment",
        f"IF ({_NEXT} AND {_RECORDED_POSTGRES}) IS NOT TRUE THEN RAISE EXCEPTION "
        "'sealed: an archive file follows from the last one, and an entry records it'; "
        "END IF; RETURN NEW;",
    ),
)
_IF_ENDED = f"ROW WHEN (OLD.state IN ({_ENDED}))"
# Name, table, event, row or statement, function.
_POSTGRES = (
    ("sealed_switch", _SWITCH, "UPDATE OR DELETE", _IF_ENDED, "sealed"),
    ("sealed_switch_truncate", _SWITCH, "TRUNCATE", "STATEMENT", "sealed"),
    ("sealed_entry", _ENTRY, "UPDATE", "ROW", "sealed"),
    ("sealed_entry_delete", _ENTRY, "DELETE", "ROW", "moved"),
    ("sealed_entry_truncate", _ENTRY, "TRUNCATE", "STATEMENT", "sealed"),
    ("sealed_entry_insert", _ENTRY, "INSERT", "ROW", "follows"),
    ("sealed_segment", _SEGMENT, "UPDATE OR DELETE", "ROW", "sealed"),
    ("sealed_segment_truncate", _SEGMENT, "TRUNCATE", "STATEMENT", "sealed"),
    ("sealed_segment_insert", _SEGMENT, "INSERT", "ROW", "next_segment"),
)
POSTGRES = {
    name: (
        table,
        f"BEFORE {event} ON {table} FOR EACH {each} EXECUTE FUNCTION switcher_{function}()",
    )
    for name, table, event, each, function in _POSTGRES
}


def make_triggers() -> None:
    """Create the triggers, replacing those of an older version. Safe to call at any time. Does
    nothing if the tables are not those of this version.
    """
    with connection.cursor() as cursor:
        if any(not columns <= columns_of(cursor, table) for table, columns in _COLUMNS.items()):
            return
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            for name, when in SQLITE.items():
                cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
                cursor.execute(
                    f"CREATE TRIGGER {name} {when} "
                    "BEGIN SELECT RAISE(ABORT, 'sealed: this record is kept as it is'); END"
                )
        else:
            for function in _FUNCTIONS:
                cursor.execute(function)
            for name, (table, when) in POSTGRES.items():
                cursor.execute(f"CREATE OR REPLACE TRIGGER {name} {when}")
                # ALWAYS: session_replication_role does not switch it off.
                cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def remake() -> list[str]:
    """Recreate the triggers, and return which were missing or altered.

    The triggers that exist after creating them are the expected ones, so no code needs to know how
    a database stores a trigger.
    """
    with transaction.atomic():
        before = stored()
        make_triggers()
        after = stored()
    _expected.clear()
    _expected.update(after)
    return sorted(name for name, text in after.items() if before.get(name) != text)


def differing() -> list[str]:
    """Return the triggers that are missing or were altered since this process called `remake`."""
    now = stored()
    names: Iterable[str] = SQLITE if connection.vendor == "sqlite" else POSTGRES
    if not _expected:
        return sorted(set(names) - now.keys())
    return sorted(name for name, text in _expected.items() if now.get(name) != text)


_expected: dict[str, str] = {}

_STORED_SQLITE = (
    "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN (%s, %s, %s)"
)
# This includes whether a trigger is enabled, and the text of the function that it calls.
_STORED_POSTGRES = (
    "SELECT t.tgname, pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text || ' ' || p.prosrc "
    "FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
    "WHERE NOT t.tgisinternal AND t.tgrelid IN (to_regclass(%s), to_regclass(%s), to_regclass(%s))"
)


def stored() -> dict[str, str]:
    """Return our triggers as the database stores them, by name."""
    is_sqlite = connection.vendor == "sqlite"
    ours = SQLITE if is_sqlite else POSTGRES
    sql = _STORED_SQLITE if is_sqlite else _STORED_POSTGRES
    with connection.cursor() as cursor:
        cursor.execute(sql, [_SWITCH, _ENTRY, _SEGMENT])
        return {name: text for name, text in cursor.fetchall() if name in ours}


def drop_triggers() -> None:
    """Drop the triggers, before tables are migrated and in tests that empty tables."""
    with connection.cursor() as cursor:
        for name in SQLITE if connection.vendor == "sqlite" else ():
            cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
        for name, (table, _) in POSTGRES.items() if connection.vendor == "postgresql" else ():
            cursor.execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
