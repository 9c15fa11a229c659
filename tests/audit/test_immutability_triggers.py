"""What the database itself refuses: the past stays as it was written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from switcher.audit.immutability_triggers import SQLITE, drop_triggers, make_triggers
from switcher.domain.states import ENDED, OPEN, State
from switcher.models import FailureSeen, Host, LedgerRow, SwitchEvent
from switcher.records import switches
from tests.clocks import FakeClock
from tests.records.conftest import ANNA, BEN, ended, everything, lead_to, open_one, take

pytestmark = pytest.mark.django_db(transaction=True)

SWITCH, ENTRY = "switcher_switchevent", "switcher_ledgerrow"
WAYS_TO_END = sorted(ENDED - {State.ACTIVE})


def run(sql: str, *values: Any) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql, values)


def run_beside_us(sql: str, *values: Any) -> None:
    """As from SQLite's own shell, where foreign keys protect nothing."""
    with closing(sqlite3.connect(connection.settings_dict["NAME"])) as shell:
        assert shell.execute("PRAGMA foreign_keys").fetchone() == (0,)
        with pytest.raises(sqlite3.Error), shell:
            shell.execute(sql.replace("%s", "?"), values)


def copy_of(table: str, pk: int, key: str = "id", **changes: Any) -> tuple[str, list[Any]]:
    """Columns and values of a row, changed: to write it once more by hand."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} WHERE {key} = %s", [pk])
        names = [c[0] for c in cursor.description]
        row = dict(zip(names, cursor.fetchone(), strict=True)) | changes
    row = {k: v for k, v in row.items() if v is not ...}
    columns = ", ".join(row)
    return f"({columns}) VALUES ({', '.join(['%s'] * len(row))})", list(row.values())


@pytest.fixture
def past(host: Host, clock: FakeClock) -> SwitchEvent:
    return ended(host, clock, key="k-1")


def refused(row: SwitchEvent, *sql: Any) -> None:
    before = everything(row.pk)
    with pytest.raises(DatabaseError):
        run(*sql)
    assert everything(row.pk) == before
    if connection.vendor == "sqlite":
        run_beside_us(*sql)
        assert everything(row.pk) == before


# --- ended switches --------------------------------------------------------------------------


@pytest.mark.parametrize("state", WAYS_TO_END)
@pytest.mark.parametrize(
    "change", ["outcome = 'Well'", "state = 'queued'", "id = id + 100", "actor = 'nobody'"]
)
def test_an_ended_switch_is_never_changed(
    host: Host, clock: FakeClock, state: State, change: str
) -> None:
    row = ended(host, clock, state)
    refused(row, f"UPDATE {SWITCH} SET {change} WHERE id = %s", row.pk)
    refused(row, f"UPDATE OR REPLACE {SWITCH} SET {change} WHERE id = %s", row.pk)


@pytest.mark.parametrize("state", WAYS_TO_END)
def test_an_ended_switch_is_never_deleted(host: Host, clock: FakeClock, state: State) -> None:
    row = ended(host, clock, state)
    refused(row, f"DELETE FROM {SWITCH} WHERE id = %s", row.pk)
    refused(row, f"DELETE FROM {SWITCH}")


def test_the_orm_cannot_change_an_ended_switch(past: SwitchEvent) -> None:
    before = everything(past.pk)
    past.outcome = "It went well."
    for act in (
        past.save,
        past.delete,
        lambda: SwitchEvent.objects.update(outcome="Well"),
        lambda: SwitchEvent.objects.bulk_update([past], ["outcome"]),
        lambda: SwitchEvent.objects.filter(pk=past.pk).delete(),
        lambda: SwitchEvent.objects.bulk_create([past]),
        lambda: SwitchEvent.objects.bulk_create(
            [past], update_conflicts=True, update_fields=["outcome"], unique_fields=["id"]
        ),
        lambda: SwitchEvent.objects.all()._raw_delete(using="default"),
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            act()
    assert everything(past.pk) == before


def test_a_switch_is_not_replaced_by_its_number(past: SwitchEvent) -> None:
    columns, values = copy_of(SWITCH, past.pk, outcome="It went well.")
    refused(past, f"INSERT OR REPLACE INTO {SWITCH} {columns}", *values)
    refused(past, f"REPLACE INTO {SWITCH} {columns}", *values)


def test_a_switch_is_not_replaced_by_its_idempotency_key(past: SwitchEvent) -> None:
    """REPLACE removes whatever is in the way of any unique index, without a DELETE trigger."""
    columns, values = copy_of(SWITCH, past.pk, id=..., state="cancelled")
    refused(past, f"INSERT OR REPLACE INTO {SWITCH} {columns}", *values)
    columns, values = copy_of(SWITCH, past.pk, id=past.pk + 50)
    refused(past, f"INSERT OR REPLACE INTO {SWITCH} {columns}", *values)


@pytest.mark.parametrize(
    "change", ["id = {0}", "idempotency_key = 'k-1'", "actor = 'anna', idempotency_key = 'k-1'"]
)
def test_an_open_switch_cannot_push_an_ended_one_away(
    host: Host, clock: FakeClock, past: SwitchEvent, change: str
) -> None:
    row = open_one(host, clock, key="k-2")
    sql = f"UPDATE OR REPLACE {SWITCH} SET {change.format(past.pk)} WHERE id = %s"
    refused(past, sql, row.pk)


def test_an_upsert_changes_no_ended_switch(past: SwitchEvent) -> None:
    columns, values = copy_of(SWITCH, past.pk)
    sql = f"INSERT INTO {SWITCH} {columns} ON CONFLICT (id) DO UPDATE SET outcome = 'Well'"
    refused(past, sql, *values)


def test_a_host_with_a_past_is_not_deleted(host: Host, past: SwitchEvent) -> None:
    with pytest.raises(Exception, match="protected"):
        host.delete()


@pytest.mark.parametrize("state", sorted(OPEN))
def test_an_open_switch_can_change(host: Host, clock: FakeClock, state: State) -> None:
    row = open_one(host, clock)
    lead_to(take(row, clock), state)
    run(f"UPDATE {SWITCH} SET outcome = 'so far' WHERE id = %s", row.pk)
    assert SwitchEvent.objects.get().outcome == "so far"


def test_an_open_switch_is_not_deleted_because_entries_name_it(
    host: Host, clock: FakeClock
) -> None:
    row = open_one(host, clock)
    with pytest.raises(DatabaseError):
        run(f"DELETE FROM {SWITCH} WHERE id = %s", row.pk)
    assert SwitchEvent.objects.get() == row


def test_rows_about_an_ended_switch_can_be_added(clock: FakeClock, past: SwitchEvent) -> None:
    switches.mark_seen(past.pk, BEN, clock)
    assert FailureSeen.objects.get().by == "ben"


# --- entries ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        f"UPDATE {ENTRY} SET body = '{{}}'",
        f"UPDATE OR REPLACE {ENTRY} SET seq = seq - 1 WHERE seq = (SELECT max(seq) FROM {ENTRY})",
        f"UPDATE {ENTRY} SET seq = seq + 100",
        f"DELETE FROM {ENTRY}",
        f"DELETE FROM {ENTRY} WHERE seq = (SELECT min(seq) FROM {ENTRY})",
    ],
)
def test_an_entry_is_never_changed_or_deleted(past: SwitchEvent, sql: str) -> None:
    refused(past, sql)


def test_an_entry_is_not_replaced(past: SwitchEvent) -> None:
    entry = LedgerRow.objects.first()
    assert entry is not None
    columns, values = copy_of(ENTRY, entry.pk, "seq", body="{}")
    refused(past, f"INSERT OR REPLACE INTO {ENTRY} {columns}", *values)
    rowid = columns.replace("(seq,", "(rowid,")
    assert rowid != columns
    refused(past, f"INSERT OR REPLACE INTO {ENTRY} {rowid}", *values)


def test_the_orm_cannot_change_an_entry(past: SwitchEvent) -> None:
    before = everything(past.pk)
    entry = LedgerRow.objects.first()
    assert entry is not None
    for act in (
        entry.save,
        entry.delete,
        lambda: LedgerRow.objects.update(body="{}"),
        lambda: LedgerRow.objects.all().delete(),
        lambda: LedgerRow.objects.bulk_create([entry]),
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            act()
    assert everything(past.pk) == before


# --- the triggers themselves -----------------------------------------------------------------


def names() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        return {name for (name,) in cursor.fetchall()}


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's own list of triggers")
def test_triggers_can_be_made_twice(db: None) -> None:
    drop_triggers()
    assert not names() & set(SQLITE)
    make_triggers()
    make_triggers()
    assert set(SQLITE) <= names()


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's own list of triggers")
def test_a_trigger_of_an_older_version_is_replaced(past: SwitchEvent) -> None:
    run("DROP TRIGGER sealed_switch_update")
    run(f"CREATE TRIGGER sealed_switch_update BEFORE UPDATE ON {SWITCH} WHEN 0 BEGIN SELECT 1; END")
    make_triggers()
    refused(past, f"UPDATE {SWITCH} SET outcome = 'Well' WHERE id = %s", past.pk)


def test_a_refusal_says_why(past: SwitchEvent) -> None:
    with pytest.raises(DatabaseError, match="sealed: this record is kept as it is"):
        SwitchEvent.objects.update(outcome="Well")
    assert ANNA.name == past.actor
