"""A single cell that holds what it never should: SQLite keeps whatever it is given."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client

from switcher.access import AUDITORS
from switcher.auditing import checking, health
from switcher.auditing.tail import Signer
from switcher.evidence.keys import KeyFiles
from switcher.models import Checkpoint
from switcher.queries.export import CSV, JSONL, Export, chunks
from switcher.queries.filters import Filters
from switcher.queries.ledger import verify
from switcher.queries.moments import then
from switcher.records import checkpoints
from switcher.rows import newest_seq
from tests import make
from tests.clocks import FakeClock
from tests.tamper.attacker import Attacker, write

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL keeps types"),
]

NO_MOMENTS = ["5", "'x'", "'2026-99-99 00:00:00'", "x'ff'", "'2026-01-01T25:00:00'", "9e99"]
CELLS = [("at", value) for value in NO_MOMENTS] + [("kind", "x'ff'"), ("actor", "x'ff'")]


@pytest.fixture
def written(proofs: KeyFiles, clock: FakeClock) -> Attacker:
    checking.forget()
    write(5, clock)
    Signer(clock).begin()
    write(2, clock)
    return Attacker(proofs, clock)


@pytest.mark.parametrize(("column", "value"), CELLS)
def test_nobody_is_made_blind_by_it(
    written: Attacker, clock: FakeClock, column: str, value: str
) -> None:
    written.sql(f"UPDATE switcher_auditentry SET {column} = {value}")
    clock.pass_time(50)
    signer = Signer(clock)
    signer.tick()
    signer.look()
    assert Checkpoint.objects.order_by("-size").first().size >= 8  # type: ignore[union-attr]
    assert checkpoints.raise_alarm("seal", "Something is wrong.", clock)
    assert health.health(clock).trail.entries == newest_seq()
    report = verify(index=True)
    assert (report.report.intact, report.index_first[:3]) == (True, (1, 2, 3))


@pytest.mark.parametrize(("column", "value"), CELLS)
def test_every_page_says_what_there_is(
    written: Attacker, clock: FakeClock, client: Client, column: str, value: str
) -> None:
    written.sql(f"UPDATE switcher_auditentry SET {column} = {value}")
    client.force_login(make.user("arno", AUDITORS))
    for page in (
        "/audit/",
        "/audit/?actor=anna&unreviewed=1",
        "/audit/5/",
        "/audit/verify/",
        "/health",
    ):
        assert client.get(page).status_code in (200, 503), page
    assert "not what was written" in client.get("/audit/5/").content.decode()
    then(clock.now())
    for form in (CSV, JSONL):
        for filters in (Filters(), Filters(host="north-1")):
            list(chunks(Export(form, filters, newest_seq(), "arno", clock.now())))


@pytest.mark.parametrize("value", NO_MOMENTS)
def test_a_checkpoint_without_a_time_is_signed_behind(
    written: Attacker, clock: FakeClock, value: str
) -> None:
    written.sql(f"UPDATE switcher_checkpoint SET at = {value}")
    written.sql(f"UPDATE switcher_delivery SET next_at = {value}, delivered_at = {value}")
    Signer(clock).sign()
    assert Checkpoint.objects.order_by("-size").first().size == newest_seq()  # type: ignore[union-attr]
    health.health(clock)
    assert verify().ok
