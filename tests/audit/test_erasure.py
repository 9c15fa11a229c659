"""What is personal of somebody is erased; what they did, and that it is proved, stays."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection, connections

from switcher.audit import checkpoints
from switcher.audit.erasure import erase, held_of
from switcher.audit.ledger import append, writing
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verification import verify
from switcher.models import AuditEntry, Origin, SwitchEvent
from switcher.records import Actor
from tests import make
from tests.audit.conftest import DORA, Background
from tests.clocks import FakeClock

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

ADDRESS, BROWSER = "192.0.2.14", "Firefox 999 of Ben"
BEN = Actor("ben", "page", ip=ADDRESS, agent=BROWSER)
CARL = Actor("carl", "page", ip="192.0.2.77", agent="Lynx")


@pytest.fixture
def trail(proofs: KeyFiles, clock: FakeClock) -> KeyFiles:
    with writing():
        for actor in (BEN, CARL, BEN):
            append("host.changed", actor, host="north-1", clock=clock)
    make.open_switch(make.host(), actor=BEN, clock=clock)
    checkpoints.sign(clock)
    return proofs


def test_addresses_and_browsers_are_gone_and_the_chain_verifies(
    trail: KeyFiles, clock: FakeClock
) -> None:
    assert erase("ben", DORA, "asked by letter", clock).origins == 3
    for row in Origin.objects.exclude(erased_at=None):
        assert (row.ip, row.agent, bytes(row.salt)) == (None, "", b"")
    left = {row.agent for row in Origin.objects.filter(erased_at=None)}
    assert CARL.agent in left
    assert BROWSER not in left
    checkpoints.sign(clock)
    assert verify(index=True).ok
    assert SwitchEvent.objects.get().origin.erased_at is not None  # type: ignore[union-attr]


def test_an_entry_records_it_without_what_was_erased(trail: KeyFiles, clock: FakeClock) -> None:
    erase("ben", DORA, "asked by letter", clock)
    entry = AuditEntry.objects.get(kind="audit.erased")
    assert (entry.actor, entry.reason) == ("dora", "asked by letter")
    assert entry.facts == {"person": "ben", "places": 3}
    assert ADDRESS not in entry.body


def test_what_they_did_stays(trail: KeyFiles, clock: FakeClock) -> None:
    before = AuditEntry.objects.filter(actor="ben").count()
    erase("ben", DORA, clock=clock)
    assert AuditEntry.objects.filter(actor="ben").count() == before


def test_erasing_twice_erases_nothing_more(trail: KeyFiles, clock: FakeClock) -> None:
    erase("ben", DORA, clock=clock)
    assert erase("ben", DORA, clock=clock).origins == 0


def test_an_unknown_name_is_refused(trail: KeyFiles, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("audit", "erase-personal", "--user", "nobody")
    assert "No entry and no switch in the database is by nobody" in capsys.readouterr().err
    assert not AuditEntry.objects.filter(kind="audit.erased").exists()


def test_a_dry_run_says_what_is_held(trail: KeyFiles, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("audit", "erase-personal", "--user", "ben", "--dry-run")
    printed = capsys.readouterr().out
    assert "3 addresses and browsers of ben would be erased." in printed
    assert "Kept: who did what" in printed
    assert held_of("ben").origins == 3


def bytes_of_the_database() -> bytes:
    """Read by another process: to close such a file here would drop SQLite's locks on it."""
    path = Path(connection.settings_dict["NAME"])
    files = [path, path.with_name(f"{path.name}-wal")]
    there = [str(file) for file in files if file.exists()]
    return subprocess.run(["cat", *there], capture_output=True, check=True).stdout


@pytest.mark.django_db(transaction=True)
def test_no_byte_of_it_is_left_in_the_database(proofs: KeyFiles, clock: FakeClock) -> None:
    if connection.vendor != "sqlite":
        return  # its files are another user's
    with writing():
        append("host.changed", BEN, host="north-1", clock=clock)
    assert BROWSER.encode() in bytes_of_the_database()
    assert erase("ben", DORA, clock=clock).gone
    assert BROWSER.encode() not in bytes_of_the_database()


@pytest.mark.django_db(transaction=True)
def test_erasing_is_completed_once_nobody_reads_older_rows(
    proofs: KeyFiles, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    with writing():
        append("host.changed", BEN, host="north-1", clock=clock)
    background = Background(clock)
    background.begin()
    with somebody_reads():
        call_command("audit", "erase-personal", "--user", "ben")
        assert "still has them, because somebody is reading older rows" in capsys.readouterr().out
        background.upkeep()
        assert is_left()
    background.upkeep()
    assert not is_left()


@contextmanager
def somebody_reads() -> Iterator[None]:
    """Another connection that looks at the rows as they are now, as long as this lasts."""
    look = "SELECT count(*) FROM switcher_origin"
    if connection.vendor == "sqlite":
        with closing(sqlite3.connect(connection.settings_dict["NAME"])) as reader:
            reader.isolation_level = None
            reader.execute("BEGIN")
            reader.execute(look).fetchall()
            yield
        return
    other = connections.create_connection("default")
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute(look)
        yield
    finally:
        other.close()


def is_left() -> bool:
    if connection.vendor == "sqlite":
        return BROWSER.encode() in bytes_of_the_database()
    with connection.cursor() as cursor:
        cursor.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = %s",
                       ["switcher_origin"])  # fmt: skip
        return bool(cursor.fetchone()[0])
