"""`/health`: the state of the audit trail, for a monitor without an account."""

from __future__ import annotations

import json
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client

from switcher.audit import health
from switcher.audit.deliveries import Deliverer
from switcher.audit.paths import FILE, Sink
from switcher.audit.signing_keys import KeyFiles
from switcher.concurrency.loop import Loop
from switcher.domain import vitals
from switcher.domain.clock import system
from switcher.domain.drift import OFFLINE_AFTER
from switcher.domain.observed import Observation
from switcher.domain.specs import Spec
from switcher.domain.states import Strategy
from switcher.models import Host
from switcher.records import Actor, readings, switches
from switcher.records.switches import ResolvedRequest
from tests import make
from tests.audit.conftest import Background
from tests.until import until

# A test's own transaction would hold the lock for writing.
pytestmark = pytest.mark.django_db(transaction=True)


def test_it_answers_without_signing_in(proofs: KeyFiles, client: Client) -> None:
    response = client.get("/health")
    assert (response.status_code, response["Cache-Control"]) == (200, "no-store")
    body = response.json()
    assert (body["ok"], body["problems"]) == (True, [])
    assert body["audit"]["sinks"] == [
        {"name": "file", "ok": True, "waiting": 0, "delivered_at": None}
    ]


def test_it_shows_the_age_of_the_last_checkpoint(proofs: KeyFiles, client: Client) -> None:
    make.host()
    Background().begin()
    Deliverer(Sink(FILE, str(proofs.private.with_name("anchors.txt")))).tick()
    body = client.get("/health").json()["audit"]
    assert body["signed"] == 2
    assert 0 <= body["last_checkpoint_age_s"] < 60
    assert (body["key"], body["seals"], body["last_verified_ok"]) == ("ok", "ok", True)


def test_it_shows_no_path_and_no_address(
    proofs: KeyFiles, client: Client, settings: object, tmp_path: Path
) -> None:
    make.host(base_url="http://canary.test:11434")
    Background().begin()
    proofs.private.chmod(0o644)
    response = client.get("/health")
    assert response.json()["problems"][0] == "The signing key cannot be used."
    assert str(tmp_path) not in json.dumps(response.json())
    assert "canary" not in response.content.decode()


def test_it_can_only_be_read(client: Client) -> None:
    assert client.post("/health").status_code == 405
    assert client.head("/health").status_code == 200


def test_it_says_so_if_the_state_cannot_be_read(
    proofs: KeyFiles, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("a hostile row")

    monkeypatch.setattr(health, "trail_status", breaks)
    body = client.get("/health").json()
    assert (body["ok"], body["problems"], body["audit"]) == (False, [health.UNKNOWN], None)
    assert health.problems() == (health.UNKNOWN,)


def problems(client: Client) -> str:
    """Return the problems, which must make `ok` false."""
    body = client.get("/health").json()
    assert body["ok"] is not bool(body["problems"])
    return " ".join(body["problems"])


def test_every_part_is_named(proofs: KeyFiles, client: Client) -> None:
    checks = client.get("/health").json()["checks"]
    assert all(check["ok"] for check in checks.values())
    assert set(checks) == {
        "worker",
        "watcher",
        "auditor",
        "gateway",
        "database_readable",
        "database_writable",
        "sessions",
        "disk",
        "hosts",
        "switches",
    }


@pytest.mark.parametrize("name", ["10.42.0.17:8000", "pod_7", "evil.example"])
def test_a_probe_may_call_the_server_by_any_name(
    proofs: KeyFiles, client: Client, name: str
) -> None:
    assert client.get("/health", headers={"Host": name}).status_code == 200
    assert client.get("/login/", headers={"Host": name}).status_code == 400


@pytest.mark.parametrize(
    ("loop", "part"),
    [("switch-worker", "worker"), ("watcher", "watcher"), ("audit-sign", "auditor")],
)
def test_a_part_that_fails_is_a_problem(
    proofs: KeyFiles, client: Client, loop: str, part: str
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    failing = Loop(loop, fail, 3600)
    failing.start()
    try:
        until(lambda: failing.failures)
        assert f"The {part} has failed 1 times in a row." in problems(client)
    finally:
        failing.stop(5)
    assert not problems(client)


def test_a_part_that_hangs_is_a_problem(
    proofs: KeyFiles, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switcher.concurrency.loop.HUNG_AFTER_S", 0.0)
    go_on = threading.Event()
    hanging = Loop("switch-worker", lambda: go_on.wait() and None, 3600)
    hanging.start()
    try:
        until(lambda: "The worker hangs." in problems(client))
    finally:
        go_on.set()
        hanging.stop(5)


def test_stale_routes_of_the_gateway_are_a_problem(proofs: KeyFiles, client: Client) -> None:
    vitals.note("gateway", "forwards on stale routes: the disk is full", 60)
    try:
        assert "The gateway forwards on stale routes: the disk is full." in problems(client)
        vitals.note("gateway", "", -1)
        assert "The gateway has not shown itself for too long." in problems(client)
    finally:
        vitals.forget("gateway")


def test_a_locked_database_is_a_problem(proofs: KeyFiles, client: Client) -> None:
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert "cannot be written: it is locked by another program" in problems(client)
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert not problems(client)


@pytest.mark.parametrize("table", ["django_session", "switcher_usage", "switcher_lease"])
def test_a_missing_table_is_a_problem(proofs: KeyFiles, client: Client, table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO moved_away")
    try:
        assert f"it lacks {table}" in problems(client)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE moved_away RENAME TO {table}")


def test_a_full_disk_is_a_problem(
    proofs: KeyFiles, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switcher.watching.health.MIN_FREE_BYTES", 2**62)
    assert "disk has only" in problems(client)


def test_a_host_that_does_not_answer_is_a_problem(proofs: KeyFiles, client: Client) -> None:
    host = make.host()
    seen = Observation(system.now(), error="No connection.")
    readings.store(host.pk, seen, OFFLINE_AFTER)
    assert f"{host.name} does not answer." in problems(client)


def test_a_host_that_nobody_reads_is_a_problem(proofs: KeyFiles, client: Client) -> None:
    host = make.host()
    readings.store(host.pk, Observation(system.now() - timedelta(minutes=10)), 0)
    assert f"{host.name} has not been read" in problems(client)


def test_a_degraded_host_is_a_problem(proofs: KeyFiles, client: Client) -> None:
    host = make.host()
    Host.objects.filter(pk=host.pk).update(degraded="mid-a was lost.")
    assert f"{host.name} does not hold what is recorded as active." in problems(client)


def test_a_switch_that_no_worker_runs_is_a_problem(
    proofs: KeyFiles, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make.host()
    request = ResolvedRequest(host, Spec("", "mid-b"), strategy=Strategy.SWAP)
    row, _ = switches.open_switch(request, Actor("anna", "page"))
    assert not problems(client), "a worker needs a moment to find it"
    monkeypatch.setattr("switcher.watching.health.STUCK_S", 0.0)
    assert f"No worker runs switch {row.pk}." in problems(client)
