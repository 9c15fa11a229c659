"""The database is away, locked, full or read-only, while the hosts are well."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError, connection

from switcher.concurrency import outage_flags
from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.domain.states import State, Strategy
from switcher.gateway import reports, route_cache, routing
from switcher.models import Host, Usage
from switcher.records import refused_keys, switches
from switcher.records.switches import ResolvedRequest
from switcher.switching.worker import run_once
from tests.gateway.conftest import ADMIN, Upstream, ask
from tests.gateway.test_gates import activate, advance, begin_switch
from tests.until import until_async

STALE = "x-switchboard-routes"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expire the routes soon, so that no test waits for seconds."""
    monkeypatch.setattr(route_cache, "VALID_S", 0.2)
    monkeypatch.setattr(route_cache, "HUNG_AFTER_S", 0.1)
    monkeypatch.setattr(reports, "HUNG_AFTER_S", 0.1)
    monkeypatch.setattr(reports, "HEARTBEAT_INTERVAL_S", 0.05)
    monkeypatch.setattr(reports, "HEARTBEAT_VALID_S", 0.3)
    monkeypatch.setattr(route_cache, "HEARTBEAT_VALID_S", 0.3)
    monkeypatch.setattr(reports, "RETRY_INTERVAL_S", 0.05)
    monkeypatch.setattr(route_cache, "RETRY_INTERVAL_S", 0.05)


class Outage:
    """Makes this process's calls to the database fail, like a full disk or a lost file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads, self.writes = "", ""
        self._wrap(monkeypatch, reports.gates, "heartbeat", lambda: self.writes)
        self._wrap(monkeypatch, reports.usage, "add_usage", lambda: self.writes)
        self._wrap(monkeypatch, route_cache, "newest_entry", lambda: self.reads)

    def _wrap(
        self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Callable[[], str]
    ) -> None:
        call = getattr(module, name)

        def failing(*args: Any) -> Any:
            if error():
                raise OperationalError(error())
            return call(*args)

        monkeypatch.setattr(module, name, failing)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


@contextmanager
def locked_by_another_program() -> Iterator[None]:
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def use_the_gateway() -> None:
    """Make one request, and wait until the versions of its routes are known."""
    assert (await ask().end()).status == 200
    await until_async(lambda: bool(route_cache.current()._versions))


async def until_stale() -> None:
    await until_async(lambda: _are_stale(True))


async def until_fresh() -> None:
    await until_async(lambda: _are_stale(False))


def _are_stale(expected: bool) -> bool:
    routes = route_cache.current()._usable()
    return routes is not None and routes.by_name["tower"].stale is expected


async def test_requests_are_answered_while_another_program_locks_the_database(
    host: Host, upstream: Upstream
) -> None:
    assert STALE not in (await ask().end()).headers
    with locked_by_another_program():
        await until_stale()
        reply = await ask().end()
        assert (reply.status, reply.headers[STALE]) == (200, "stale")
        listed = await ask(target="/v1/models", method="GET").end()
        assert (listed.status, listed.headers[STALE]) == (200, "stale")
    await until_fresh()
    assert STALE not in (await ask().end()).headers


@pytest.mark.parametrize(
    ("reads", "writes"),
    [
        ("", "database or disk is full"),
        ("unable to open database file", "unable to open database file"),
        ("", "attempt to write a readonly database"),
        ("no such table: switcher_auditentry", ""),
    ],
)
async def test_requests_are_answered_whatever_the_database_lacks(
    host: Host, upstream: Upstream, outage: Outage, reads: str, writes: str
) -> None:
    await use_the_gateway()
    outage.reads, outage.writes = reads, writes
    await until_stale()
    assert (await ask().end()).headers[STALE] == "stale"
    outage.reads = outage.writes = ""
    await until_fresh()


async def test_what_could_not_be_counted_is_counted_after_the_outage(
    host: Host, upstream: Upstream, outage: Outage
) -> None:
    await use_the_gateway()
    outage.writes = "database or disk is full"
    await until_stale()
    assert [(await ask().end()).status for _ in range(3)] == [200, 200, 200]
    outage.writes = ""
    await route_cache.close_current()
    assert await in_thread(lambda: sum(Usage.objects.values_list("requests", flat=True))) == 4


async def test_what_is_never_counted_is_named_as_lost(
    host: Host, upstream: Upstream, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    await use_the_gateway()
    outage.writes = "database or disk is full"
    await until_stale()
    assert (await ask().end()).status == 200
    await route_cache.close_current()
    assert "the usage of 2 requests could not be written and is lost" in caplog.text


async def test_no_switch_begins_while_requests_pass_on_stale_routes(
    host: Host, upstream: Upstream, outage: Outage
) -> None:
    """The database fails for this process only: another one can write, and asks for a switch."""
    await use_the_gateway()
    outage.writes = "database or disk is full"
    await until_stale()
    request = ResolvedRequest(host, Spec("", "mid-b"), strategy=Strategy.SWAP)
    row, _ = await in_thread(switches.open_switch, request, ADMIN)
    assert not await in_thread(run_once, row.pk)
    assert (await ask().end()).headers[STALE] == "stale"
    outage.writes = ""
    await until_async(lambda: not route_cache.current()._flags)
    flag = await in_thread(outage_flags.raise_for_switch, host.pk)
    assert flag is not None
    flag.lower()


async def test_requests_wait_if_a_switch_was_under_way_when_the_outage_began(
    host: Host, upstream: Upstream, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use_the_gateway()
    flag = await in_thread(outage_flags.raise_for_switch, host.pk)
    assert flag is not None
    outage.reads = outage.writes = "unable to open database file"
    monkeypatch.setattr(route_cache.RouteCache.routes, "__defaults__", (0.5,))
    cache = route_cache.current()
    await until_async(lambda: cache._usable() is None)
    reply = await ask().end()
    assert (reply.status, reply.json()["error"]["code"]) == (503, "no_database")
    assert "it cannot be opened" in reply.json()["error"]["message"]
    assert len(upstream.received) == 1
    flag.lower()


async def test_routes_from_before_a_switch_are_not_used(
    host: Host, upstream: Upstream, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outage begins for this process before it has seen that another process switched."""
    await use_the_gateway()
    outage.reads = outage.writes = "unable to open database file"
    flag = await in_thread(outage_flags.raise_for_switch, host.pk)
    assert flag is not None
    flag.lower()
    monkeypatch.setattr(route_cache.RouteCache.routes, "__defaults__", (0.5,))
    cache = route_cache.current()
    await until_async(lambda: cache._usable() is None)
    assert (await ask().end()).status == 503
    assert len(upstream.received) == 1


async def test_a_closed_gate_stays_closed_in_an_outage(
    host: Host, upstream: Upstream, outage: Outage
) -> None:
    await use_the_gateway()
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    outage.writes = "database or disk is full"
    await until_stale()
    reply = ask()
    await until_async(lambda: routing.held(host.pk) == 1)
    assert len(upstream.received) == 1
    outage.writes = ""
    await in_thread(activate, switch)
    assert (await reply.end()).headers["x-switchboard-model"] == "mid-b"


async def test_a_process_on_postgresql_stops_as_others_may_still_switch(
    host: Host, upstream: Upstream, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use_the_gateway()
    monkeypatch.setattr(outage_flags, "_paths", lambda _: (None, None))
    outage.writes = "could not extend file: No space left on device"
    monkeypatch.setattr(route_cache.RouteCache.routes, "__defaults__", (0.5,))
    cache = route_cache.current()
    await until_async(lambda: cache._usable() is None and "the disk is full" in cache.trouble)
    reply = await ask().end()
    assert reply.status == 503
    assert "the disk is full" in reply.json()["error"]["message"]


async def test_a_signed_in_user_is_told_the_reason(
    host: Host, upstream: Upstream, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = False

    def fail(_: str) -> None:
        raise OperationalError("attempt to write a readonly database")

    monkeypatch.setattr("switcher.access.user_of_session", fail)
    reply = await ask(cookie="session_id=abc").end()
    assert reply.status == 503
    assert "it is read-only" in reply.json()["error"]["message"]


def test_a_process_that_was_paused_in_a_switch_does_not_block_its_successor(
    transactional_db: None, tmp_path: Any
) -> None:
    paused = outage_flags.raise_for_switch(7)
    successor = outage_flags.raise_for_switch(7)
    assert paused is not None
    assert successor is not None
    successor.lower()
    assert outage_flags.raise_for_forwarding(7, outage_flags.version_of(7)) is None
    paused.lower()
    flag = outage_flags.raise_for_forwarding(7, outage_flags.version_of(7))
    assert flag is not None
    flag.lower()


async def test_a_refused_key_waits_for_no_locked_database(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[object] = []
    monkeypatch.setattr(refused_keys, "record_refused", lambda *args: recorded.append(args))
    await use_the_gateway()
    with locked_by_another_program():
        await until_stale()
        for _ in range(10):
            reply = await ask(Authorization="Bearer sb-" + "x" * 40).end()
            assert reply.status == 401
    assert (recorded, refused_keys.throttle.left_out) == ([], 10)
