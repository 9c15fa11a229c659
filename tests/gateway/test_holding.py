from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from switcher import traffic
from switcher.gateway import hold, routing
from switcher.models import Host
from switcher.queries import api as queries
from switcher.records import leases, switches
from switcher.records.switches import Held, NewSwitch
from switcher.specs import Spec
from switcher.states import State, Strategy
from switcher.switching import waiting as waiting_room
from switcher.switching.waiting import in_thread
from tests.gateway.conftest import ADMIN, Upstream, ask


def begin(host: Host, strategy: str = "swap") -> Held:
    """A switch to mid-b, as far as its checking."""
    new = NewSwitch(host.pk, Spec("", "mid-b"), None, Strategy(strategy), ADMIN)
    row, _ = switches.open_switch(new)
    held = switches.hold(row.pk, leases.take(host.pk, "test") or 0)
    assert held is not None
    held.move(State.CHECKING)
    held.note(strategy=strategy, to_digest="sha-mid-b", plan={"unload": []})
    return held


def go(held: Held, *states: State) -> None:
    for state in states:
        held.move(state)


def activate(held: Held) -> None:
    go(held, State.UNLOADING, State.LOADING, State.WARMING, State.VERIFYING, State.ACTIVATING)
    held.activate(State.ACTIVE, "sha-mid-b")


async def until(look: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not look():
            await asyncio.sleep(0.002)


async def test_requests_wait_while_a_swap_lasts_and_go_to_the_new_model(
    host: Host, upstream: Upstream
) -> None:
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    waiting = [ask() for _ in range(5)]
    await until(lambda: hold.waiting(host.pk) == 5)
    assert traffic.in_flight(host.pk) == 0, "who waits is not in flight: draining would not end"
    assert not upstream.asked
    await in_thread(activate, held)
    for got in waiting:
        await got.end()
        assert got.status == 200
        assert got.headers["x-switchboard-model"] == "mid-b"
    assert hold.waiting(host.pk) == 0


async def test_after_a_swap_that_failed_they_go_to_the_old_model(
    host: Host, upstream: Upstream
) -> None:
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING, State.UNLOADING, State.LOADING, State.RESTORING)
    got = ask()
    await until(lambda: hold.waiting(host.pk))
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
    await until(lambda: hold.waiting(host.pk))
    got.leave()
    async with asyncio.timeout(10):
        await got.task
    assert hold.waiting(host.pk) == 0
    assert got.sent.empty()


async def test_only_so_many_wait(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "MOST_WAITING", 2)
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    waiting = [ask(), ask()]
    await until(lambda: hold.waiting(host.pk) == 2)
    got = await ask().end()
    assert got.status == 503
    assert got.json()["error"]["code"] == "switching"
    assert int(got.headers["retry-after"]) > 0
    await in_thread(activate, held)
    assert [(await w.end()).status for w in waiting] == [200, 200]


async def test_nobody_waits_for_ever(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "LONGEST_S", 0.05)
    await in_thread(go, await in_thread(begin, host), State.DRAINING)
    got = await ask().end()
    assert got.status == 503
    assert "retry-after" in got.headers
    assert hold.waiting(host.pk) == 0


async def test_who_waits_is_sent_away_with_a_time_when_the_server_ends(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "_ending", threading.Event())
    held = await in_thread(begin, host)
    await in_thread(go, held, State.DRAINING)
    got = ask()
    await until(lambda: hold.waiting(host.pk) == 1)
    waiting_room.let_go()
    await got.end()
    assert (got.status, got.headers["retry-after"]) == (503, "10")
    assert "Switchboard is stopped" in got.json()["error"]["message"]
    assert not upstream.asked


async def test_models_are_listed_while_a_swap_lasts(host: Host) -> None:
    await in_thread(go, await in_thread(begin, host), State.DRAINING)
    got = await ask(target="/v1/models", method="GET").end()
    assert [m["id"] for m in got.json()["data"]] == ["mid-a"]


async def test_draining_sees_every_request_that_read_no_hold(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap begins right after the route was read: the request is counted already."""
    held = await in_thread(begin, host)
    counted: list[int] = []

    def read_then_drain(name: str) -> queries.Route:
        now = queries.route(name)
        if not counted:
            held.move(State.DRAINING)
            counted.append(traffic.in_flight(host.pk))
        return now

    monkeypatch.setitem(routing._ids, "", host.pk)
    monkeypatch.setattr(routing, "route", read_then_drain)
    got = await ask().end()
    assert got.headers["x-switchboard-model"] == "mid-a"
    assert counted == [1]


async def test_a_default_host_that_changed_is_counted_as_itself(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(traffic.in_flight(host.pk))
        return web.json_response({})

    upstream.answer = answer
    monkeypatch.setitem(routing._ids, "", host.pk + 7)
    assert (await ask().end()).status == 200
    assert seen == [1]
    assert traffic.in_flight(host.pk + 7) == 0
