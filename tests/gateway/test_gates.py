from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from django.db import DatabaseError

from switcher.concurrency.threads import in_thread
from switcher.domain import inflight
from switcher.domain.specs import Spec
from switcher.domain.states import State, Strategy
from switcher.gateway import route_cache, routing
from switcher.models import GatewayProcess, Host, Usage
from switcher.ollama import relay
from switcher.queries import gates as queries
from switcher.queries.gates import GateStatus
from switcher.records import leases, switches
from switcher.records.switches import ClaimedSwitch, NewSwitch
from switcher.switching import waiting as waiting_room
from tests.gateway.conftest import ADMIN, Upstream, ask, set_active
from tests.until import until_async


def begin(host: Host, strategy: str = "swap") -> ClaimedSwitch:
    """A switch to mid-b, as far as its checking."""
    new = NewSwitch(host.pk, Spec("", "mid-b"), None, Strategy(strategy), ADMIN)
    row, _ = switches.open_switch(new)
    held = switches.claim(row.pk, leases.take(host.pk, "test") or 0)
    assert held is not None
    held.move(State.CHECKING)
    held.note(strategy=strategy, to_digest="sha-mid-b", plan={"unload": []})
    return held


def go(held: ClaimedSwitch, *states: State) -> None:
    for state in states:
        held.move(state)


def activate(held: ClaimedSwitch) -> None:
    go(held, State.UNLOADING, State.LOADING, State.WARMING, State.VERIFYING, State.ACTIVATING)
    held.activate(State.ACTIVE, "sha-mid-b")


async def test_requests_wait_while_a_swap_lasts_and_go_to_the_new_model(
    host: Host, upstream: Upstream
) -> None:
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    waiting = [ask() for _ in range(5)]
    await until_async(lambda: routing.held(host.pk) == 5)
    assert inflight.in_flight(host.pk) == 0, "who waits is not in flight: draining would not end"
    assert not upstream.asked
    await in_thread(activate, held)
    for got in waiting:
        await got.end()
        assert got.status == 200
        assert got.headers["x-switchboard-model"] == "mid-b"
    assert routing.held(host.pk) == 0


async def test_after_a_swap_that_failed_they_go_to_the_old_model(
    host: Host, upstream: Upstream
) -> None:
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING, State.UNLOADING, State.LOADING, State.RESTORING)
    got = ask()
    await until_async(lambda: routing.held(host.pk))
    await in_thread(held.end, State.ROLLED_BACK, outcome="mid-a is active again.")
    assert (await got.end()).headers["x-switchboard-model"] == "mid-a"


@pytest.mark.parametrize("strategy", ["overlap", "swap"])
async def test_nothing_waits_while_the_old_model_still_answers(
    host: Host, upstream: Upstream, strategy: str
) -> None:
    held = await in_thread(begin, host, strategy)
    if strategy == "overlap":
        await in_thread(go, held, State.LOADING, State.WARMING)
    assert (await ask().end()).headers["x-switchboard-model"] == "mid-a"


async def test_who_leaves_gives_the_place_up(host: Host, upstream: Upstream) -> None:
    await in_thread(go, await in_thread(begin, host), State.DRAINING)
    got = ask()
    await until_async(lambda: routing.held(host.pk))
    got.leave()
    async with asyncio.timeout(10):
        await got.task
    assert routing.held(host.pk) == 0
    assert got.sent.empty()


async def test_only_so_many_wait(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "MAX_HELD", 2)
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    waiting = [ask(), ask()]
    await until_async(lambda: routing.held(host.pk) == 2)
    got = await ask().end()
    assert got.status == 503
    assert got.json()["error"]["code"] == "switching"
    assert int(got.headers["retry-after"]) > 0
    await in_thread(activate, held)
    assert [(await w.end()).status for w in waiting] == [200, 200]


async def test_nobody_waits_for_ever(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "GATE_TIMEOUT_S", 0.05)
    await in_thread(go, await in_thread(begin, host), State.DRAINING)
    got = await ask().end()
    assert got.status == 503
    assert "retry-after" in got.headers
    assert routing.held(host.pk) == 0


async def test_a_wait_is_counted_whatever_became_of_it(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    patient, leaving = ask(), ask()
    await until_async(lambda: routing.held(host.pk) == 2)
    leaving.leave()
    await until_async(lambda: routing.held(host.pk) == 1)
    monkeypatch.setattr(routing, "GATE_TIMEOUT_S", 0.05)
    assert (await ask().end()).status == 503
    await in_thread(activate, held)
    assert (await patient.end()).status == 200
    await route_cache.close_current()
    rows = await in_thread(lambda: list(Usage.objects.values_list("model", "requests", "waits")))
    assert sorted(rows) == [("", 2, 2), ("mid-b", 1, 1)]
    errors = await in_thread(lambda: sum(Usage.objects.values_list("errors", flat=True)))
    assert errors == 1, "it is none that a client left"


async def test_who_waits_is_sent_away_with_a_time_when_the_server_ends(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "_ending", threading.Event())
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    got = ask()
    await until_async(lambda: routing.held(host.pk) == 1)
    waiting_room.release_waiters()
    await got.end()
    assert (got.status, got.headers["retry-after"]) == (503, "10")
    assert "Switchboard is stopped" in got.json()["error"]["message"]
    assert not upstream.asked


async def test_models_are_listed_while_a_swap_lasts(host: Host) -> None:
    await in_thread(go, await in_thread(begin, host), State.DRAINING)
    got = await ask(target="/v1/models", method="GET").end()
    assert [m["id"] for m in got.json()["data"]] == ["mid-a"]


async def gate_status_of(host: Host, held: ClaimedSwitch) -> GateStatus:
    return await in_thread(queries.gate_status, host.pk, held.switch_id)


async def until_gate_status(host: Host, held: ClaimedSwitch, expected: GateStatus) -> None:
    async def is_expected() -> bool:
        return (await gate_status_of(host, held)) == expected

    await until_async(is_expected)


async def test_a_switch_learns_what_is_still_under_way(host: Host, upstream: Upstream) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return web.json_response({})

    upstream.answer = answer
    early = ask()
    await until_async(lambda: upstream.asked)
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    await until_gate_status(host, held, GateStatus(1, 0, 1, 0))
    late = ask()
    go_on.set()
    assert (await early.end()).status == 200
    await until_gate_status(host, held, GateStatus(1, 0, 0))
    assert len(upstream.asked) == 1, "who came after the gate was closed waits"
    await in_thread(activate, held)
    assert (await late.end()).headers["x-switchboard-model"] == "mid-b"


async def test_nothing_slips_through_once_the_process_has_said_that_it_knows(
    host: Host, upstream: Upstream
) -> None:
    stop = asyncio.Event()

    async def keep_asking() -> None:
        while not stop.is_set():
            asking = ask()
            await asyncio.wait(
                {asking.task, asyncio.create_task(stop.wait())}, return_when="FIRST_COMPLETED"
            )
            if not asking.task.done():
                asking.leave()
                await asking.task

    clients = [asyncio.create_task(keep_asking()) for _ in range(8)]
    await until_async(lambda: len(upstream.asked) > 20)
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    await until_gate_status(host, held, GateStatus(1, 0, 0))
    count = len(upstream.asked)
    await until_async(lambda: routing.held(host.pk) == 8)
    assert len(upstream.asked) == count
    stop.set()
    await asyncio.gather(*clients)


async def test_an_overlap_holds_requests_only_while_the_configuration_changes(
    host: Host, upstream: Upstream
) -> None:
    held = await in_thread(begin, host, "overlap")
    await in_thread(go, held, State.LOADING, State.WARMING, State.VERIFYING)
    assert (await ask().end()).headers["x-switchboard-model"] == "mid-a"
    await in_thread(go, held, State.ACTIVATING)
    await until_gate_status(host, held, GateStatus(1, 0, 0))
    got = ask()
    await until_async(lambda: routing.held(host.pk))
    await in_thread(held.activate, State.UNLOADING, "sha-mid-b")
    assert (await got.end()).headers["x-switchboard-model"] == "mid-b"


def connecting_slowly(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Connections to hosts are made once the event is set: as after a SYN that was lost."""
    go_on = asyncio.Event()
    connector = relay._session().connector
    assert connector is not None
    connect = connector.connect

    async def slowly(*args: Any, **values: Any) -> Any:
        await go_on.wait()
        return await connect(*args, **values)

    monkeypatch.setattr(connector, "connect", slowly)
    return go_on


@pytest.mark.parametrize("strategy", ["overlap", "swap"])
async def test_what_still_connects_when_the_gate_closes_waits_and_goes_to_the_new_model(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Written later, it would have the host load the old model again."""
    held = await in_thread(begin, host, strategy)
    if strategy == "overlap":
        await in_thread(go, held, State.LOADING, State.WARMING, State.VERIFYING)
    go_on = connecting_slowly(monkeypatch)
    early = ask()
    await until_async(lambda: inflight.unsent(host.pk))
    closing = State.ACTIVATING if strategy == "overlap" else State.DRAINING
    await in_thread(go, held, closing)
    await until_gate_status(host, held, GateStatus(1, 0, 1, 1))
    go_on.set()
    await until_gate_status(host, held, GateStatus(1, 0, 0, 0))
    assert not upstream.asked
    if strategy == "overlap":
        await in_thread(held.activate, State.UNLOADING, "sha-mid-b")
    else:
        await in_thread(activate, held)
    assert (await early.end()).headers["x-switchboard-model"] == "mid-b"
    assert [upstream.body(n)["model"] for n in range(len(upstream.asked))] == ["mid-b"]


async def test_a_process_that_was_paused_while_it_connected_asks_the_table_again(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been taken for dead meanwhile, and not waited for."""
    assert (await ask().end()).status == 200
    go_on = connecting_slowly(monkeypatch)
    early = ask()
    await until_async(lambda: inflight.unsent(host.pk))
    route_cache.current()._expire()
    await in_thread(set_active, host, Spec("", "mid-b"))
    route_cache.current()._newest_entry = -1  # as if an entry had told of it
    go_on.set()
    assert (await early.end()).headers["x-switchboard-model"] == "mid-b"
    assert upstream.body(1)["model"] == "mid-b"


async def test_the_second_try_goes_to_whatever_is_active_by_then(
    host: Host, upstream: Upstream
) -> None:
    break_it = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if len(upstream.asked) == 1:
            await break_it.wait()
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"choices": []})

    upstream.answer = answer
    got = ask()
    await until_async(lambda: upstream.asked)
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    await in_thread(activate, held)
    break_it.set()
    assert (await got.end()).headers["x-switchboard-model"] == "mid-b"
    assert [upstream.body(n)["model"] for n in range(2)] == ["mid-a", "mid-b"]


async def test_bodies_that_wait_have_a_bound_together(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "MAX_HELD_BYTES", 150)
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    first = ask({"messages": [], "pad": "x" * 60})
    await until_async(lambda: routing.held(host.pk) == 1)
    second = await ask({"messages": [], "pad": "x" * 60}).end()
    assert (second.status, second.headers["retry-after"]) == (503, "10")
    assert second.json()["error"]["code"] == "switching"
    await in_thread(activate, held)
    assert (await first.end()).status == 200


async def test_without_its_database_nothing_is_passed_on(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that cannot say that it lives is soon taken for dead, and not waited for."""

    def fail(name: str) -> None:
        raise DatabaseError("away")

    monkeypatch.setattr(route_cache.gates, "heartbeat", fail)
    monkeypatch.setattr(route_cache, "VALID_S", 0.2)
    monkeypatch.setattr(route_cache.RouteCache.routes, "__defaults__", (0.2,))
    got = await ask().end()
    assert (got.status, got.json()["error"]["code"]) == (503, "no_database")
    assert not upstream.asked


async def test_a_process_that_was_not_seen_for_long_is_not_waited_for(host: Host) -> None:
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    now = datetime.now(UTC)
    for name, seconds in (("alive", 1), ("dead", 30)):
        seen_at = now - timedelta(seconds=seconds)
        await in_thread(GatewayProcess.objects.create, name=name, seen_at=seen_at)
    assert await gate_status_of(host, held) == GateStatus(1, 1, 0)


async def test_without_requests_it_sleeps_and_wakes_for_the_next(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route_cache, "AWAKE_S", 0.1)
    assert (await ask().end()).status == 200
    task = route_cache.current()._task
    assert task is not None
    async with asyncio.timeout(10):
        await task
    assert not await in_thread(GatewayProcess.objects.exists)
    assert (await ask().end()).status == 200
    assert await in_thread(GatewayProcess.objects.count) == 1
