from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain import inflight
from switcher.domain.specs import Spec
from switcher.domain.states import State, Strategy
from switcher.gateway import route_cache, routing
from switcher.models import GatewayProcess, Host, Usage
from switcher.models.shared_time import shared_now
from switcher.ollama import relay
from switcher.queries import gates as queries
from switcher.queries.gates import GateStatus
from switcher.records import claimed_switch, leases, switches
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.switches import ResolvedRequest
from switcher.switching import waiting
from tests.gateway.conftest import ADMIN, Upstream, ask, set_active
from tests.until import PATIENCE_S, until_async


def begin_switch(host: Host, strategy: str = "swap") -> ClaimedSwitch:
    """Begin a switch to mid-b, and take it as far as its checking."""
    request = ResolvedRequest(host, Spec("", "mid-b"), strategy=Strategy(strategy))
    row, _ = switches.open_switch(request, ADMIN)
    switch = claimed_switch.claim(row.pk, leases.take(host.pk, "test") or 0)
    assert switch is not None
    switch.move(State.CHECKING)
    switch.note(strategy=strategy, to_digest="sha-mid-b", plan={"unload": []})
    return switch


def advance(switch: ClaimedSwitch, *states: State) -> None:
    for state in states:
        switch.move(state)


def activate(switch: ClaimedSwitch) -> None:
    advance(
        switch, State.UNLOADING, State.LOADING, State.WARMING, State.VERIFYING, State.ACTIVATING
    )
    switch.activate(State.ACTIVE, "")  # without a digest: the upstream lists no models


async def test_requests_wait_during_a_swap_and_go_to_the_new_model(
    host: Host, upstream: Upstream
) -> None:
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    requests = [ask() for _ in range(5)]
    await until_async(lambda: routing.held(host.pk) == 5)
    assert inflight.in_flight(host.pk) == 0, "or draining would never end"
    assert not upstream.received
    await in_thread(activate, switch)
    for reply in requests:
        await reply.end()
        assert reply.status == 200
        assert reply.headers["x-switchboard-model"] == "mid-b"
    assert routing.held(host.pk) == 0


async def test_after_a_failed_swap_they_go_to_the_old_model(host: Host, upstream: Upstream) -> None:
    switch = await in_thread(begin_switch, host)
    await in_thread(
        advance, switch, State.DRAINING, State.UNLOADING, State.LOADING, State.RESTORING
    )
    reply = ask()
    await until_async(lambda: routing.held(host.pk))
    await in_thread(switch.end, State.ROLLED_BACK, outcome="mid-a is active again.")
    assert (await reply.end()).headers["x-switchboard-model"] == "mid-a"


@pytest.mark.parametrize("strategy", ["overlap", "swap"])
async def test_nothing_waits_while_the_old_model_still_answers(
    host: Host, upstream: Upstream, strategy: str
) -> None:
    switch = await in_thread(begin_switch, host, strategy)
    if strategy == "overlap":
        await in_thread(advance, switch, State.LOADING, State.WARMING)
    assert (await ask().end()).headers["x-switchboard-model"] == "mid-a"


async def test_a_client_that_disconnects_waits_no_longer(host: Host, upstream: Upstream) -> None:
    await in_thread(advance, await in_thread(begin_switch, host), State.DRAINING)
    reply = ask()
    await until_async(lambda: routing.held(host.pk))
    reply.disconnect()
    async with asyncio.timeout(PATIENCE_S):
        await reply.task
    assert routing.held(host.pk) == 0
    assert reply.sent.empty()


async def test_the_number_of_waiting_requests_is_limited(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "MAX_HELD", 2)
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    requests = [ask(), ask()]
    await until_async(lambda: routing.held(host.pk) == 2)
    reply = await ask().end()
    assert reply.status == 503
    assert reply.json()["error"]["code"] == "switching"
    assert int(reply.headers["retry-after"]) > 0
    await in_thread(activate, switch)
    assert [(await w.end()).status for w in requests] == [200, 200]


async def test_waiting_has_a_time_limit(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "GATE_TIMEOUT_S", 0.05)
    await in_thread(advance, await in_thread(begin_switch, host), State.DRAINING)
    reply = await ask().end()
    assert reply.status == 503
    assert "retry-after" in reply.headers
    assert routing.held(host.pk) == 0


async def test_every_wait_is_counted_however_it_ends(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    patient, leaving = ask(), ask()
    await until_async(lambda: routing.held(host.pk) == 2)
    leaving.disconnect()
    await until_async(lambda: routing.held(host.pk) == 1)
    monkeypatch.setattr(routing, "GATE_TIMEOUT_S", 0.05)
    assert (await ask().end()).status == 503
    await in_thread(activate, switch)
    assert (await patient.end()).status == 200
    await route_cache.close_current()
    rows = await in_thread(lambda: list(Usage.objects.values_list("model", "requests", "waits")))
    assert sorted(rows) == [("", 2, 2), ("mid-b", 1, 1)]
    errors = await in_thread(lambda: sum(Usage.objects.values_list("errors", flat=True)))
    assert errors == 1, "a disconnect is no error"


async def test_waiting_requests_get_a_retry_after_when_the_server_stops(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_shutting_down", threading.Event())
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    reply = ask()
    await until_async(lambda: routing.held(host.pk) == 1)
    waiting.stop_waiting()
    await reply.end()
    assert (reply.status, reply.headers["retry-after"]) == (503, "10")
    assert "Switchboard is stopping" in reply.json()["error"]["message"]
    assert not upstream.received


async def test_models_are_listed_during_a_swap(host: Host) -> None:
    await in_thread(advance, await in_thread(begin_switch, host), State.DRAINING)
    reply = await ask(target="/v1/models", method="GET").end()
    assert [m["id"] for m in reply.json()["data"]] == ["mid-a"]


async def gate_status_of(host: Host, switch: ClaimedSwitch) -> GateStatus:
    return await in_thread(queries.gate_status, host.pk, switch.id)


async def until_gate_status(host: Host, switch: ClaimedSwitch, expected: GateStatus) -> None:
    async def is_expected() -> bool:
        return (await gate_status_of(host, switch)) == expected

    await until_async(is_expected)


async def test_a_switch_learns_which_requests_are_still_in_flight(
    host: Host, upstream: Upstream
) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return web.json_response({})

    upstream.answer = answer
    early = ask()
    await until_async(lambda: upstream.received)
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    await until_gate_status(host, switch, GateStatus(1, 0, 1, 0))
    late = ask()
    go_on.set()
    assert (await early.end()).status == 200
    await until_gate_status(host, switch, GateStatus(1, 0, 0))
    assert len(upstream.received) == 1, "a request that came after the gate was closed waits"
    await in_thread(activate, switch)
    assert (await late.end()).headers["x-switchboard-model"] == "mid-b"


async def test_no_request_passes_once_the_process_has_reported_the_closed_gate(
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
                asking.disconnect()
                await asking.task

    clients = [asyncio.create_task(keep_asking()) for _ in range(8)]
    await until_async(lambda: len(upstream.received) > 20)
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    await until_gate_status(host, switch, GateStatus(1, 0, 0))
    count = len(upstream.received)
    await until_async(lambda: routing.held(host.pk) == 8)
    assert len(upstream.received) == count
    stop.set()
    await asyncio.gather(*clients)


async def test_an_overlap_holds_requests_only_during_activation(
    host: Host, upstream: Upstream
) -> None:
    switch = await in_thread(begin_switch, host, "overlap")
    await in_thread(advance, switch, State.LOADING, State.WARMING, State.VERIFYING)
    assert (await ask().end()).headers["x-switchboard-model"] == "mid-a"
    await in_thread(advance, switch, State.ACTIVATING)
    await until_gate_status(host, switch, GateStatus(1, 0, 0))
    reply = ask()
    await until_async(lambda: routing.held(host.pk))
    await in_thread(switch.activate, State.UNLOADING, "")
    assert (await reply.end()).headers["x-switchboard-model"] == "mid-b"


def connecting_slowly(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Make connections to hosts wait for the event, as after a lost SYN."""
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
async def test_a_request_that_connects_while_the_gate_closes_goes_to_the_new_model(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Sent later, it would make the host load the old model again."""
    switch = await in_thread(begin_switch, host, strategy)
    if strategy == "overlap":
        await in_thread(advance, switch, State.LOADING, State.WARMING, State.VERIFYING)
    go_on = connecting_slowly(monkeypatch)
    early = ask()
    await until_async(lambda: inflight.unsent(host.pk))
    closing = State.ACTIVATING if strategy == "overlap" else State.DRAINING
    await in_thread(advance, switch, closing)
    await until_gate_status(host, switch, GateStatus(1, 0, 1, 1))
    go_on.set()
    await until_gate_status(host, switch, GateStatus(1, 0, 0, 0))
    assert not upstream.received
    if strategy == "overlap":
        await in_thread(switch.activate, State.UNLOADING, "")
    else:
        await in_thread(activate, switch)
    assert (await early.end()).headers["x-switchboard-model"] == "mid-b"
    assert [upstream.body(n)["model"] for n in range(len(upstream.received))] == ["mid-b"]


async def test_a_process_that_was_paused_while_connecting_asks_the_cache_again(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile it may have been taken for dead and not waited for."""
    assert (await ask().end()).status == 200
    go_on = connecting_slowly(monkeypatch)
    early = ask()
    await until_async(lambda: inflight.unsent(host.pk))
    route_cache.current()._expire()
    await in_thread(set_active, host, Spec("", "mid-b"))
    route_cache.current()._newest_entry = -1  # as if the change had written an entry
    go_on.set()
    assert (await early.end()).headers["x-switchboard-model"] == "mid-b"
    assert upstream.body(1)["model"] == "mid-b"


async def test_a_retry_goes_to_whatever_is_active_by_then(host: Host, upstream: Upstream) -> None:
    break_it = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if len(upstream.received) == 1:
            await break_it.wait()
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"choices": []})

    upstream.answer = answer
    reply = ask()
    await until_async(lambda: upstream.received)
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    await in_thread(activate, switch)
    break_it.set()
    assert (await reply.end()).headers["x-switchboard-model"] == "mid-b"
    assert [upstream.body(n)["model"] for n in range(2)] == ["mid-a", "mid-b"]


async def test_the_bytes_of_waiting_requests_are_limited(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "MAX_HELD_BYTES", 150)
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    first = ask({"messages": [], "pad": "x" * 60})
    await until_async(lambda: routing.held(host.pk) == 1)
    second = await ask({"messages": [], "pad": "x" * 60}).end()
    assert (second.status, second.headers["retry-after"]) == (503, "10")
    assert second.json()["error"]["code"] == "switching"
    await in_thread(activate, switch)
    assert (await first.end()).status == 200


async def test_a_dead_process_is_not_waited_for(host: Host) -> None:
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    now = await in_thread(shared_now)
    # "earlier" was written before the machine's last boot, when its clock was further on.
    for name, seconds in (("alive", 1), ("dead", 30), ("earlier", -3600)):
        seen_at = now - timedelta(seconds=seconds)
        await in_thread(GatewayProcess.objects.create, name=name, seen_at=seen_at)
    assert await gate_status_of(host, switch) == GateStatus(1, 1, 0)


async def test_without_requests_the_cache_sleeps_until_the_next_one(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route_cache, "AWAKE_S", 0.1)
    assert (await ask().end()).status == 200
    task = route_cache.current()._task
    assert task is not None
    async with asyncio.timeout(PATIENCE_S):
        await task
    assert not await in_thread(GatewayProcess.objects.exists)
    assert (await ask().end()).status == 200
    assert await in_thread(GatewayProcess.objects.count) == 1
