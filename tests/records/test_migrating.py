"""Migrations run over sealed tables, and leave them sealed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import DatabaseError, connection, transaction
from django.db.migrations import Migration

from switcher.audit import immutability_triggers
from switcher.audit.filters import Filters
from switcher.audit.ledger import append, writing
from switcher.audit.search import matching
from switcher.audit.text_index import index_words
from switcher.models import ArchiveFile, AuditEntry, LedgerRow, SwitchEvent
from tests.clocks import FakeClock
from tests.killmatrix.engines import Missing, PostgreSQL
from tests.records.conftest import ANNA
from tests.server.process import ROOT, environment

MIGRATIONS = sorted(path.stem for path in (ROOT / "switcher/migrations").glob("0*.py"))

# Step by step to the newest, back and on again, each step a command of its own; and all at once.
THERE_AND_BACK = """
import sys
import django
django.setup()
from django.core.management import call_command
from django.db import connection
from switcher.audit import immutability_triggers as seals
from switcher.audit.ledger import SERVER, append, writing

def check_sealed(why):
    made = set(seals.SQLITE if connection.vendor == "sqlite" else seals.POSTGRES)
    assert set(seals.stored()) == made, (why, made - set(seals.stored()))
    with writing():
        append("test.told", SERVER, reason="a word")

def to(name):
    call_command("migrate", "switcher", name, verbosity=0)

names = sys.argv[1:]
for name in names:
    to(name)
call_command("migrate", verbosity=0)
check_sealed("step by step")
reversible = [name for name in names if name > "0006"]
for name in reversed(reversible):
    to(name)
for name in reversible:
    to(name)
check_sealed("back and on again, step by step")
to(reversible[0])
to(names[-1])
check_sealed("on again at once")
to("zero")
to(names[0])
call_command("migrate", verbosity=0)
check_sealed("from the first at once")
"""


def migrate_there_and_back(env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THERE_AND_BACK, *MIGRATIONS],
        env=env,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_from_each_version_the_newest_is_reached_and_sealed(tmp_path: Path) -> None:
    migrate_there_and_back(environment(tmp_path))


def test_so_it_is_on_postgresql(tmp_path: Path) -> None:
    try:
        engine = PostgreSQL(tmp_path / "work", "a demo password")
    except Missing as exc:
        pytest.skip(str(exc))
    with engine:
        database = engine.new("versions")
        try:
            migrate_there_and_back(database.env)
        finally:
            database.close()


def find(text: str) -> list[int]:
    """The entries whose reason has these words."""
    return sorted(matching(Filters(text=text)).values_list("seq", flat=True))


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite makes tables anew")
@pytest.mark.parametrize("model", [SwitchEvent, LedgerRow, ArchiveFile, AuditEntry])
@pytest.mark.django_db(transaction=True)
def test_a_migration_may_make_a_sealed_table_anew(model: Any, clock: FakeClock) -> None:
    with writing():
        append("test.told", ANNA, clock=clock, reason="findable")
    immutability_triggers.remake()
    told = {"verbosity": 0, "interactive": False, "db": "default"}
    plan = [(Migration("9999_made_anew", "switcher"), False)]
    emit_pre_migrate_signal(**told, plan=plan, apps=apps)
    with connection.schema_editor() as editor:
        editor._remake_table(model)  # type: ignore[attr-defined]  # as AlterField does it
    emit_post_migrate_signal(**told, plan=plan, apps=apps)
    assert immutability_triggers.differing() == []
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        LedgerRow.objects.all().delete()
    assert find("findable") == [1]
    with writing():
        append("test.told", ANNA, clock=clock, reason="findable too")
    assert find("findable") == [1, 2]


@pytest.mark.django_db(transaction=True)
def test_a_migrate_that_changes_no_table_of_ours_lifts_no_seal() -> None:
    immutability_triggers.remake()
    plan = [(Migration("9999_theirs", "auth"), False)]
    told = {"verbosity": 0, "interactive": False, "db": "default"}
    emit_pre_migrate_signal(**told, plan=plan, apps=apps)
    assert immutability_triggers.differing() == []


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL keeps its own index right")
@pytest.mark.django_db(transaction=True)
def test_words_of_rows_that_came_without_triggers_are_found(clock: FakeClock) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER words_insert")
    with writing():
        append("test.told", ANNA, clock=clock, reason="unseen")
    assert find("unseen") == []
    index_words()
    assert find("unseen") == [1]
