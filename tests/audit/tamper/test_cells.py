"""A single cell that holds what it never should: SQLite keeps whatever it is given, and PostgreSQL
moments that Python has no name for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection, models
from django.test import Client

from switcher.access import AUDITORS
from switcher.audit import checking, checkpoints, health, reviews, subtrees
from switcher.audit.export import CSV, JSONL, begin
from switcher.audit.filters import Filters
from switcher.audit.ledger import append, writing
from switcher.audit.ledger_reader import newest_seq
from switcher.audit.paths import sinks
from switcher.audit.point_in_time import then
from switcher.audit.signer import CheckpointDelivery, Signer
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verification import size_of, verify
from switcher.models import (
    AuditEntry,
    Checkpoint,
    Delivery,
    Origin,
    Review,
    Subtree,
)
from switcher.records import Actor
from tests import make
from tests.audit.tamper.attacker import Attacker, write
from tests.clocks import FakeClock

pytestmark = pytest.mark.django_db

NO_UTF8, BLOB = "CAST(x'ff' AS TEXT)", "x'ff'"
NO_TEXTS = [NO_UTF8, BLOB]
NO_NUMBERS = ["'x'", "1.5", BLOB, "NULL"]
NUMBERS = ["0", "-5", str(10**9), str(2**62), str(2**63 - 1)]
NO_MOMENTS = ["'0001-01-01 00:00:00+10:00'", "'9999-12-31 23:59:59-10:00'"]
NO_MOMENTS += {
    "sqlite": ["5", "'x'", BLOB, NO_UTF8, "9e99", "'2026-99-99'", "'2026-01-01T25:00:00'"],
    "postgresql": ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'12000-01-01'"],
}[connection.vendor]
TO_COME = "'9000-01-01 00:00:00'"
ARNO = Actor("arno", "page")
TABLES = (AuditEntry, Checkpoint, Delivery, Origin, Review, Subtree)


def odd_values(field: models.Field) -> list[str]:  # type: ignore[type-arg]
    if isinstance(field, models.DateTimeField):
        return [*NO_MOMENTS, TO_COME]
    numbers = NUMBERS if isinstance(field, models.BigIntegerField) else []
    if connection.vendor == "postgresql":
        return numbers  # all else it keeps out
    if isinstance(field, models.BinaryField):
        return ["'x'", "5"]
    if isinstance(field, models.CharField | models.TextField | models.GenericIPAddressField):
        return NO_TEXTS
    if isinstance(field, models.ForeignKey):
        numbers = NUMBERS
    return [*numbers, *(value for value in NO_NUMBERS if value != "NULL" or field.null)]


def cells() -> Iterator[tuple[str, str, str]]:
    for table in TABLES:
        for field in table._meta.concrete_fields:
            if not isinstance(field, models.AutoField):  # SQLite's own numbers are numbers
                for value in odd_values(field):
                    yield table._meta.db_table, str(field.column), value


CELLS = list(cells())


@pytest.fixture
def written(proofs: KeyFiles, clock: FakeClock) -> Attacker:
    checking.forget()
    write(5, clock)
    anna = Actor("anna", "page", ip="10.1.1.1", agent="A browser")
    with writing():
        append("host.activated", anna, host="north-1", clock=clock, model="llama3.1:8b")
    reviews.review([2], ARNO, "Seen.", clock)
    Signer(clock).begin()
    write(2, clock)
    subtrees.keep()
    Subtree.objects.bulk_create([Subtree(id=255, hash=bytes(32))], ignore_conflicts=True)
    return Attacker(proofs, clock)


def spoil(attacker: Attacker, table: str, column: str, value: str) -> None:
    """All rows, or where no two may have the same, the newest."""
    key = "seq" if table == AuditEntry._meta.db_table else "id"
    last = f"{key} = (SELECT max({key}) FROM {table})"
    where = last if column in (key, "checkpoint_id") else "1 = 1"
    attacker.sql(f"UPDATE {table} SET {column} = {value} WHERE {where}")


@pytest.fixture
def _no_leftovers() -> Iterator[None]:
    """References that lead nowhere would fail the end of the test's transaction."""
    yield
    for table in (Delivery, Review, AuditEntry):
        table.objects.all().delete()


@pytest.mark.usefixtures("_no_leftovers")
@pytest.mark.parametrize(("table", "column", "value"), CELLS)
def test_nobody_is_made_blind_by_it(
    written: Attacker, clock: FakeClock, client: Client, table: str, column: str, value: str
) -> None:
    spoil(written, table, column, value)
    clock.pass_time(50)
    signer = Signer(clock)
    signer.tick()
    for sink in sinks():
        CheckpointDelivery(sink, clock).tick()
    signer.look()
    signed = max(size_of(note) for note in Checkpoint.objects.values_list("note", flat=True))
    assert signed >= 10 or AuditEntry.objects.filter(kind=checkpoints.ALARM).exists()
    assert checkpoints.raise_alarm("seal", "Something is wrong.", clock)
    assert health.health(clock).trail.entries == newest_seq()
    verify(index=True)
    every_page(client)
    then(clock.now())
    exports(clock)


def every_page(client: Client) -> None:
    client.force_login(make.user("arno", AUDITORS))
    for page in (
        "/audit/",
        "/audit/?actor=anna&unreviewed=1",
        "/audit/people/anna/",
        "/audit/hosts/north-1/",
        "/audit/when/?at=2026-11-27",
        "/audit/5/",
        "/audit/5/proof.json",
        "/audit/verify/",
        "/health",
    ):
        assert client.get(page).status_code in (200, 404, 503), page


def exports(clock: FakeClock) -> None:
    for form in (CSV, JSONL):
        for filters in (Filters(), Filters(host="north-1")):
            list(begin(form, filters, ARNO, clock).chunks)


@pytest.mark.parametrize("value", NO_MOMENTS)
def test_an_entrys_page_says_that_it_is_not_what_was_written(
    written: Attacker, client: Client, value: str
) -> None:
    spoil(written, "switcher_auditentry", "at", value)
    client.force_login(make.user("arno", AUDITORS))
    assert "not what was written" in client.get("/audit/5/").content.decode()
    assert verify(index=True).index_first[:3] == (1, 2, 3)


@pytest.mark.parametrize("value", NO_MOMENTS)
def test_a_checkpoint_without_a_time_is_signed_behind(
    written: Attacker, clock: FakeClock, value: str
) -> None:
    spoil(written, "switcher_checkpoint", "at", value)
    Signer(clock).sign()
    assert Checkpoint.objects.order_by("-size").first().size == newest_seq()  # type: ignore[union-attr]
    assert verify().ok
