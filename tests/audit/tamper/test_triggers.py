"""What the database itself refuses, on both engines, while the triggers are there."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction

from switcher.audit import immutability_triggers
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verification import verify
from switcher.models import AuditEntry, LedgerRow
from tests.audit.tamper.attacker import TABLE

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

COLUMNS = "(seq, body, prev, hash)"
LAST = f"(SELECT max(seq) FROM {TABLE})"
COPY = f"SELECT {{seq}}, body, prev, hash FROM {TABLE} WHERE seq = 7"

ON_BOTH = [
    f"UPDATE {TABLE} SET body = '{{}}'",
    f"UPDATE {TABLE} SET seq = seq + 100 WHERE seq = {LAST}",
    f"DELETE FROM {TABLE}",
    f"DELETE FROM {TABLE} WHERE seq = {LAST}",
    f"INSERT INTO {TABLE} {COLUMNS} {COPY.format(seq=7)} "
    "ON CONFLICT (seq) DO UPDATE SET body = '{}'",
    f"INSERT INTO {TABLE} {COLUMNS} {COPY.format(seq=99)}",
    f"INSERT INTO {TABLE} {COLUMNS} {COPY.format(seq=0)}",
    f"INSERT INTO {TABLE} {COLUMNS} {COPY.format(seq=13)}",  # the next one, but not its follower
]
ON_SQLITE = [
    f"INSERT OR REPLACE INTO {TABLE} {COLUMNS} {COPY.format(seq=7)}",
    f"REPLACE INTO {TABLE} {COLUMNS} {COPY.format(seq=7)}",
    f"UPDATE OR REPLACE {TABLE} SET seq = 6 WHERE seq = 7",
    f"UPDATE OR IGNORE {TABLE} SET seq = 99 WHERE seq = 7",
]
ON_POSTGRESQL = [
    f"TRUNCATE {TABLE}",
    f"TRUNCATE {TABLE} CASCADE",
    f"SET LOCAL session_replication_role = replica; DELETE FROM {TABLE}",
    f"SET LOCAL session_replication_role = replica; UPDATE {TABLE} SET body = '{{}}'",
    f"SET LOCAL session_replication_role = replica; TRUNCATE {TABLE}",
    f"MERGE INTO {TABLE} t USING (SELECT 7 AS seq) s ON t.seq = s.seq WHEN MATCHED THEN DELETE",
]


@pytest.mark.parametrize("sql", ON_BOTH)
def test_the_past_is_not_changed(trail: KeyFiles, sql: str) -> None:
    check_refused(sql)


@pytest.mark.parametrize("sql", ON_SQLITE)
@pytest.mark.both_databases(on=["sqlite"])
def test_the_past_is_not_changed_by_statements_of_sqlite(trail: KeyFiles, sql: str) -> None:
    check_refused(sql)


@pytest.mark.parametrize("sql", ON_POSTGRESQL)
@pytest.mark.both_databases(on=["postgresql"])
def test_the_past_is_not_changed_by_statements_of_postgresql(trail: KeyFiles, sql: str) -> None:
    check_refused(sql)


def check_refused(sql: str) -> None:
    before = list(LedgerRow.objects.order_by("seq").values_list())
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(sql)
    assert list(LedgerRow.objects.order_by("seq").values_list()) == before
    assert verify().ok


ALTERED = (
    "DROP TRIGGER sealed_entry_delete",
    f"CREATE TRIGGER sealed_entry_delete BEFORE DELETE ON {TABLE} WHEN 0 BEGIN SELECT 1; END",
)
ON_SQLITE_WAYS = {"dropped": ALTERED[:1], "altered": ALTERED}
ON_POSTGRESQL_WAYS = {
    "dropped": (f"DROP TRIGGER sealed_entry ON {TABLE}",),
    "switched off": (f"ALTER TABLE {TABLE} DISABLE TRIGGER sealed_entry",),
    "not always on": (f"ALTER TABLE {TABLE} ENABLE TRIGGER sealed_entry",),
    "hollowed out": (
        "CREATE OR REPLACE FUNCTION switcher_follows() RETURNS trigger AS $$ "
        "BEGIN RETURN NEW; END $$ LANGUAGE plpgsql",
    ),
}


@pytest.mark.parametrize("way", ON_SQLITE_WAYS)
@pytest.mark.both_databases(on=["sqlite"])
def test_a_trigger_that_is_missing_or_altered_is_found_and_recreated(
    trail: KeyFiles, way: str
) -> None:
    check_recreated(ON_SQLITE_WAYS[way], "sealed_entry_delete")


@pytest.mark.parametrize("way", ON_POSTGRESQL_WAYS)
@pytest.mark.both_databases(on=["postgresql"])
def test_on_postgresql_a_trigger_that_is_missing_or_altered_is_found_and_recreated(
    trail: KeyFiles, way: str
) -> None:
    name = "sealed_entry_insert" if way == "hollowed out" else "sealed_entry"
    check_recreated(ON_POSTGRESQL_WAYS[way], name)


def check_recreated(statements: tuple[str, ...], name: str) -> None:
    assert immutability_triggers.remake() == []
    with connection.cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)
    assert immutability_triggers.differing() == [name]
    assert immutability_triggers.remake() == [name]
    assert immutability_triggers.differing() == []
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        LedgerRow.objects.all().delete()


def test_triggers_survive_a_table_that_is_rebuilt(trail: KeyFiles) -> None:
    """As a migration does it on SQLite, which drops the triggers without a word."""
    from django.apps import apps
    from django.core.management import call_command

    immutability_triggers.drop_triggers()  # as before every migration
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE copy AS SELECT * FROM {TABLE}")
        cursor.execute(f"DROP TABLE {TABLE}")
        cursor.execute(f"ALTER TABLE copy RENAME TO {TABLE}")
    assert any(name.startswith("sealed_entry") for name in immutability_triggers.differing())
    assert apps.is_installed("switcher")
    call_command("migrate", verbosity=0)
    assert immutability_triggers.differing() == []
    assert AuditEntry.objects.count() == LedgerRow.objects.count()
