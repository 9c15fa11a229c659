"""Refused keys are recorded in the audit trail, and do not fill it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.db import DatabaseError

from switcher.concurrency.threads import in_thread
from switcher.models import AuditEntry, Host, LedgerRow
from switcher.records import refused_keys
from switcher.records.keys import NewKey, make_key, turn_off
from tests.gateway.conftest import ADMIN, Upstream, ask

SENT = "sb-canary-key-that-never-was-4d1a"


def refused() -> list[tuple[str, dict[str, Any]]]:
    rows = AuditEntry.objects.filter(kind="key.refused").order_by("seq")
    return [(row.actor, row.facts) for row in rows]


async def test_an_unknown_key_is_recorded_and_nothing_of_it_is_stored(
    host: Host, upstream: Upstream
) -> None:
    assert (await ask(Authorization=f"Bearer {SENT}").end()).status == 401
    recorded = await in_thread(refused)
    assert recorded == [("unknown client", {"why": "no such key", "more": 0})]
    bodies = await in_thread(lambda: "".join(row.body for row in LedgerRow.objects.all()))
    assert "canary" not in bodies


async def test_a_key_that_once_worked_is_named(host: Host, upstream: Upstream) -> None:
    key_id, token = await in_thread(make_key, NewKey("ci"), ADMIN)
    assert (await ask(Authorization=f"Bearer {token}").end()).status == 200
    await in_thread(turn_off, key_id, ADMIN)
    await refused_keys.record_refused_key(token, "gateway", "192.0.2.7", "curl")
    ((_, facts),) = await in_thread(refused)
    assert facts == {
        "why": "it is off", "more": 0, "key": key_id, "name": "ci", "prefix": token[:10]
    }  # fmt: skip
    origin = await in_thread(lambda: AuditEntry.objects.latest("seq").origin)
    assert origin is not None
    assert (origin.ip, origin.agent) == ("192.0.2.7", "curl")


async def test_a_client_that_keeps_asking_is_one_entry(
    host: Host, upstream: Upstream, monkeypatch: Any
) -> None:
    for _ in range(20):
        assert (await ask(Authorization=f"Bearer {SENT}").end()).status == 401
    assert len(await in_thread(refused)) == 1
    monkeypatch.setattr(refused_keys, "INTERVAL_S", 0.0)
    await refused_keys.record_refused_key(SENT, "gateway", None, "")
    assert (await in_thread(refused))[1][1]["more"] == 19


async def test_many_keys_and_addresses_do_not_fill_the_trail(transactional_db: None) -> None:
    for n in range(refused_keys.MAX_PER_INTERVAL + 20):
        await refused_keys.record_refused_key(f"{SENT}{n}", "gateway", f"198.51.100.{n}", "")
    assert len(await in_thread(refused)) == refused_keys.MAX_PER_INTERVAL


async def test_a_client_is_refused_even_if_nothing_can_be_recorded(
    host: Host, upstream: Upstream, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> None:
        raise DatabaseError("the database is away")

    monkeypatch.setattr(refused_keys, "record_refused", away)
    with caplog.at_level(logging.WARNING):
        assert (await ask(Authorization=f"Bearer {SENT}").end()).status == 401
    assert "was not recorded" in caplog.text
    assert SENT not in caplog.text
