"""A value that is not of its column's type: it is refused and named, and nothing stops for it.

SQLite keeps a value of any type in any column; PostgreSQL keeps times that Python cannot represent.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection, models
from django.test import Client

from switcher.access import AUDITORS
from switcher.audit import health, reviews, verification
from switcher.audit.deliveries import Deliverer
from switcher.audit.ledger import append, writing
from switcher.audit.ledger_reader import newest_seq
from switcher.audit.paths import sinks
from switcher.audit.search_index import rebuild
from switcher.audit.signer import ALARM_AFTER
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verification import size_of, verify
from switcher.domain.errors import TrailUnreadable
from switcher.models import AuditEntry, Checkpoint, CheckpointDelivery, Origin, Review
from switcher.records import Actor
from tests import make
from tests.audit.conftest import Background
from tests.audit.tamper.attacker import Attacker, write
from tests.clocks import FakeClock

pytestmark = pytest.mark.django_db

NOT_UTF8 = "CAST(x'ff' AS TEXT)"
MAX_BIGINT = str(2**63 - 1)
BAD_TIMES = {
    "sqlite": ["'x'", NOT_UTF8, "'0001-01-01 00:00:00+10:00'"],
    "postgresql": ["'infinity'", "'0044-03-15 BC'"],
}
NOTE = {"sqlite": "CAST(note AS BLOB)", "postgresql": "convert_to(note, 'UTF8')"}
TABLES = (AuditEntry, Checkpoint, CheckpointDelivery, Origin, Review)
ARNO = Actor("arno", "page")


def bad_values(field: models.Field, database: str) -> list[str]:  # type: ignore[type-arg]
    if isinstance(field, models.DateTimeField):
        return BAD_TIMES[database]
    numbers = [MAX_BIGINT] if isinstance(field, models.BigIntegerField) else []
    if database == "postgresql":
        return numbers  # it keeps nothing else of another type
    if isinstance(field, models.BinaryField):
        return ["5"]
    if isinstance(field, models.IntegerField | models.ForeignKey):
        return [*numbers, "'x'"]
    return [NOT_UTF8]


def cells(database: str) -> list[tuple[str, str, str]]:
    return [
        (table._meta.db_table, str(field.column), value)
        for table in TABLES
        for field in table._meta.concrete_fields
        if not isinstance(field, models.AutoField)  # SQLite's own keys are always numbers
        for value in bad_values(field, database)
    ]


@pytest.fixture
def written(proofs: KeyFiles, clock: FakeClock) -> Attacker:
    verification.forget()
    write(5, clock)
    anna = Actor("anna", "page", ip="10.1.1.1", agent="A browser")
    with writing():
        append("host.activated", anna, host="north-1", clock=clock, model="llama3.1:8b")
    reviews.review([2], ARNO, "Seen.", clock)
    Background(clock).begin()
    write(2, clock)
    return Attacker(proofs, clock)


def spoil(attacker: Attacker, table: str, column: str, value: str) -> None:
    """All rows, or the newest where no two may have the same value."""
    key = "seq" if table == AuditEntry._meta.db_table else "id"
    newest = f"{key} = (SELECT max({key}) FROM {table})"
    where = newest if column in (key, "checkpoint_id") else "1 = 1"
    attacker.sql(f"UPDATE {table} SET {column} = {value} WHERE {where}")


@pytest.fixture
def _no_leftovers() -> Iterator[None]:
    """References that lead nowhere would fail the end of the test's transaction."""
    yield
    for table in (CheckpointDelivery, Review, AuditEntry):
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table._meta.db_table}")


def alarms() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM switcher_auditentry WHERE kind = 'audit.alarm'")
        return int(cursor.fetchone()[0])


def signed_size() -> int:
    """The number of entries that a checkpoint signs, whatever its row says."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {NOTE[connection.vendor]} FROM switcher_checkpoint")
        return max(size_of(bytes(note).decode(errors="replace")) for (note,) in cursor.fetchall())


def keep_trying(act: object) -> None:
    """As often as the signer's threads do before they raise an alarm for what they cannot do."""
    for _ in range(ALARM_AFTER):
        try:
            act()  # type: ignore[operator]
        except Exception:
            continue


@pytest.mark.usefixtures("_no_leftovers")
@pytest.mark.both_databases(on=["sqlite"])
@pytest.mark.parametrize(("table", "column", "value"), cells("sqlite"))
def test_the_trail_is_signed_or_an_alarm_is_raised(
    written: Attacker, clock: FakeClock, client: Client, table: str, column: str, value: str
) -> None:
    spoil(written, table, column, value)
    check_nothing_stops(clock, client)


@pytest.mark.usefixtures("_no_leftovers")
@pytest.mark.both_databases(on=["postgresql"])
@pytest.mark.parametrize(("table", "column", "value"), cells("postgresql"))
def test_the_same_with_what_postgresql_keeps(
    written: Attacker, clock: FakeClock, client: Client, table: str, column: str, value: str
) -> None:
    spoil(written, table, column, value)
    check_nothing_stops(clock, client)


def check_nothing_stops(clock: FakeClock, client: Client) -> None:
    clock.pass_time(50)
    background = Background(clock)
    keep_trying(background.sign_if_due)
    for sink in sinks():
        keep_trying(Deliverer(sink, clock).tick)
    keep_trying(background.upkeep)
    assert signed_size() >= 10 or alarms()
    answer = client.get("/health").json()
    assert answer["ok"] is False or answer["audit"]["entries"] == newest_seq()
    client.force_login(make.user("arno", AUDITORS))
    for page in ("/audit/", "/audit/people/anna/", "/audit/5/", "/audit/when/", "/audit/verify/"):
        response = client.get(page)
        unreadable = "The audit trail cannot be read" in response.content.decode()
        assert response.status_code in (200, 404) or unreadable, page


@pytest.mark.both_databases
@pytest.mark.parametrize("table", ["switcher_auditentry", "switcher_review"])
def test_verifying_names_the_entry_and_rebuilding_mends_it(written: Attacker, table: str) -> None:
    for value in BAD_TIMES[connection.vendor]:
        spoil(written, table, "at", value)
        first = verify(index=True).index_first
        assert first[0] == (1 if table == "switcher_auditentry" else 2)
        rebuild(ARNO)
        assert verify(index=True).ok


@pytest.mark.both_databases
def test_a_checkpoint_without_a_time_is_an_alarm_and_health_says_so(
    written: Attacker, clock: FakeClock, client: Client
) -> None:
    spoil(written, "switcher_checkpoint", "at", BAD_TIMES[connection.vendor][0])
    background = Background(clock)
    background.sign()
    background.sign()
    assert alarms() == 1
    with pytest.raises(TrailUnreadable, match="table switcher_checkpoint"):
        health.health(clock)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["ok"]) == (200, False)
