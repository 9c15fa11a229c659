"""Directed schedules, which a random search would miss or find late."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from switcher.domain.drift import Kind, ReadingHistory
from switcher.domain.drift_rules import find_drift
from switcher.domain.observed import Observation
from switcher.domain.states import State
from switcher.queries.desired import watched_hosts
from tests.faultlab import invariants
from tests.faultlab.lab import (
    ENDS_WHILE_CUT_S,
    cancelled_while_loading,
    effect,
    faultless,
    go,
    has,
    lines,
    points,
    rate_for,
    thawing,
)
from tests.faultlab.schedules import FAST, SLOW, Fault, Schedule
from tests.faultlab.world import World

pytestmark = pytest.mark.usefixtures("ground")

CASES = [
    ("mid-b", "overlap", "north-1"),
    ("big", "swap", "north-1"),
    ("mid-b", "swap", "north-3"),
    ("mid-b", "overlap", "north-2"),
    ("mid-a", "auto", "north-1"),
    ("embed", "overlap", "north-1"),
]
BOTH = [("mid-b", "overlap"), ("big", "swap")]


@pytest.mark.parametrize(("target", "strategy", "host"), CASES)
def test_without_faults_it_becomes_active(target: str, strategy: str, host: str) -> None:
    assert faultless(target, strategy, host).states == ("active",)


@pytest.mark.parametrize("kind", ["crash", "crash_answered"])
@pytest.mark.parametrize(("target", "strategy", "host"), CASES)
def test_a_crash_at_any_effect(target: str, strategy: str, host: str, kind: str) -> None:
    """The process dies before the call or as its answer arrives, and the next one does so too."""
    effects = faultless(target, strategy, host).effects
    for at in points(effects, (target, host, kind)):
        faults = [Fault(at, kind), Fault(at + 2, kind)]
        result = go(*faults, target=target, strategy=strategy, host=host)
        assert State(result.states[0]) in (State.ACTIVE, State.ROLLED_BACK)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("target", "strategy", "host"), CASES)
def test_a_crash_around_any_write(target: str, strategy: str, host: str, after: bool) -> None:
    for at in points(faultless(target, strategy, host).writes, (target, host, after)):
        fault = Fault(at, "crash_write", args={"after": after})
        go(fault, target=target, strategy=strategy, host=host)


@pytest.mark.parametrize("seconds", [14.0, 15.5, 40.0])
@pytest.mark.parametrize("after_s", [0.0, 0.01])
@pytest.mark.parametrize(("target", "strategy", "host"), CASES[:3])
def test_a_pause_past_the_lease_at_any_effect(
    target: str, strategy: str, host: str, after_s: float, seconds: float
) -> None:
    """A process takes the lease, is paused, and resumes: by then another one has taken over."""
    effects = faultless(target, strategy, host).effects
    for at in points(effects, (target, host, after_s, seconds)):
        args = {"seconds": seconds, "answer_first": bool(at % 2)}
        go(Fault(at, "pause", after_s, args), target=target, strategy=strategy, host=host)


def slow_load(tag: str) -> Fault:
    return Fault(0, "slow_load", args={"tag": tag, "factor": 6.0})


def test_a_lease_that_runs_out_during_a_call_cuts_it() -> None:
    at = effect("Load", "big", "swap")
    silent = Fault(at, "renewals_fail", 0.1, {"seconds": 20.0})
    result = go(slow_load("big"), silent, target="big")
    assert has(result, "process 1 cuts its call")
    assert len(lines(result, "takes up switch")) == 2
    assert result.states == ("rolled_back",)


def test_while_a_call_lasts_longer_than_the_lease_it_is_renewed() -> None:
    result = go(slow_load("big"), target="big")
    assert result.states == ("active",)
    assert not has(result, "process 2 takes up")


def test_a_process_that_wakes_with_its_answer_after_another_took_over_writes_no_more() -> None:
    at = effect("Load", "big", "swap")
    args = {"seconds": 40.0, "answer_first": True}
    result = go(Fault(at, "pause", 1.0, args), target="big", strategy="swap")
    assert has(result, "process 2 takes up switch")
    assert has(result, "process 1 leaves switch")
    assert result.states == ("rolled_back",)


@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.015, 0.03])
@pytest.mark.parametrize(("target", "strategy"), BOTH)
def test_an_unload_that_a_client_revives_is_asked_for_again(
    target: str, strategy: str, after_s: float
) -> None:
    """A busy model stays until its requests end (fact 2), and a request with a keep-alive that
    comes meanwhile cancels the unload (fact 3)."""
    at = effect("Unload", target, strategy)
    busy = Fault(at, "client", args={"tag": "mid-a", "keep_alive": None, "tokens": 240})
    reviving = {"tag": "mid-a", "keep_alive": "30m", "tokens": 240}
    client = Fault(at, "client", after_s, reviving)
    result = go(busy, client, target=target, strategy=strategy)
    if strategy == "overlap":
        assert [r["name"] for r in result.rows[0].after or ()] == ["mid-b:latest"]
        assert len(lines(result, "Unload(")) > 1
    else:  # both do not fit, so the client may win, and the switch is rolled back
        assert State(result.states[0]) in (State.ACTIVE, State.ROLLED_BACK)


@pytest.mark.parametrize("tag", ["mid-a", "mid-b"])
def test_an_unload_that_is_asked_for_while_it_loads_does_nothing(tag: str) -> None:
    """Fact 4."""
    client = {"tag": tag, "keep_alive": 0, "tokens": 0}
    result = go(Fault(effect("Load"), "client", 1.0, client), strategy="overlap")
    assert result.states == ("active",)


def test_a_crash_between_activation_and_unload_is_finished_by_the_next() -> None:
    result = go(Fault(effect("Unload"), "crash"), strategy="overlap")
    assert result.states == ("active",)
    assert has(result, "unloading, fence")


def test_a_new_model_that_is_lost_with_its_worker_is_loaded_before_the_old_one_leaves() -> None:
    """The process dies between activation and unload, and the new model is evicted before the next
    worker looks: the host is never left without a model."""
    at = effect("Unload")
    lost = Fault(at, "evict", 1.0, {"tag": "mid-b"})
    result = go(Fault(at, "crash"), lost, strategy="overlap")
    assert result.states == ("active",)
    assert "mid-b left the memory" in result.rows[0].warnings[0]
    assert lines(result, "Load(")[-1] < lines(result, "Unload(")[-1] < lines(result, "mid-a is")[0]


@pytest.mark.parametrize("again", [0, 2])
def test_a_new_model_that_is_lost_while_the_old_one_leaves_comes_back_or_is_missed_loudly(
    again: int,
) -> None:
    """A client's load may evict it (fact 14), and loading it again may fail (fact 15)."""
    at = effect("Unload")
    lost = Fault(at + 1, "evict", args={"tag": "mid-b"})
    failing = {"tag": "mid-b", "times": again, "after_s": 0.5} if again else {}
    faults = [lost, Fault(at, "fail_load", args=failing)] if again else [lost]
    result = go(*faults, strategy="overlap")
    assert result.states == ("active",)
    assert result.rows[0].degraded == bool(again)


@pytest.mark.parametrize(("target", "strategy"), BOTH)
def test_a_tag_that_is_pulled_again_in_the_middle(target: str, strategy: str) -> None:
    """The tag of the new model or of the old one is pulled again at any effect (fact 23)."""
    effects = faultless(target, strategy).effects
    for after_s in (0.0, 0.05):
        for at in points(effects, (target, after_s)):
            go(Fault(at, "repull", after_s, {"tag": target}), target=target, strategy=strategy)
    for at in points(effects, strategy):
        go(Fault(at, "repull", 0.0, {"tag": "mid-a"}), target=target, strategy=strategy)


@pytest.mark.parametrize(("target", "strategy"), BOTH)
def test_a_tag_that_is_pulled_again_while_it_loads_is_not_activated(
    target: str, strategy: str
) -> None:
    """The load then brings in content other than what was planned."""
    at = effect("Load", target, strategy)
    result = go(Fault(at, "repull", args={"tag": target}), target=target, strategy=strategy)
    assert result.states == ("rolled_back",)
    assert "means other content" in result.rows[0].error


@pytest.mark.parametrize("kind", ["evict", "restart", "kill_runner"])
@pytest.mark.parametrize(("target", "strategy"), BOTH)
def test_what_is_lost_at_any_effect_is_seen(target: str, strategy: str, kind: str) -> None:
    effects = faultless(target, strategy).effects
    for tag in (target, "mid-a"):
        for at in points(effects, (tag, kind)):
            args = {"seconds": 0.5} if kind == "restart" else {"tag": tag}
            go(Fault(at, kind, 0.0, args), target=target, strategy=strategy)


def test_a_model_that_is_lost_at_the_last_look_before_its_activation_is_not_activated() -> None:
    at = effect("ListResident", "big", "swap", nth=-2)  # the very last one is for the model copies
    result = go(Fault(at, "evict", args={"tag": "big"}), target="big", strategy="swap")
    assert result.states == ("rolled_back",)
    assert "does not list big" in result.rows[0].error


@pytest.mark.parametrize("kind", ["lose_request", "lose_answer", "late_answer", "hang"])
@pytest.mark.parametrize(("target", "strategy", "host"), CASES[:3])
def test_an_answer_that_is_lost_or_late_at_any_effect(
    target: str, strategy: str, host: str, kind: str
) -> None:
    effects = faultless(target, strategy, host).effects
    args = {"seconds": 6.0} if kind == "late_answer" else {}
    for at in points(effects, (target, host, kind)):
        go(Fault(at, kind, args=args), target=target, strategy=strategy, host=host)


@pytest.mark.parametrize("after_s", [0.0, 0.001, 1.0])
@pytest.mark.parametrize(("target", "strategy", "host"), CASES)
def test_a_cancel_at_any_effect(target: str, strategy: str, host: str, after_s: float) -> None:
    for at in points(faultless(target, strategy, host).effects, (target, host, after_s)):
        go(Fault(at, "cancel", after_s), target=target, strategy=strategy, host=host)


@pytest.mark.parametrize("load_s", ENDS_WHILE_CUT_S)
def test_a_load_that_ends_just_as_it_is_cut_leaves_all_the_same(load_s: float) -> None:
    """The server aborts a load only when it notices that its caller disconnected (fact 9)."""
    result = go(cancelled_while_loading(), strategy="overlap", load_rate=rate_for(load_s))
    assert result.states == ("cancelled",)
    assert has(result, "process 1 cuts its call")
    assert has(result, "host: mid-b is gone"), "it had come up"


@pytest.mark.parametrize(("target", "strategy"), BOTH)
def test_a_server_that_freezes_while_it_loads_can_be_cancelled_and_is_restored_when_it_thaws(
    target: str, strategy: str
) -> None:
    """A frozen server accepts every request and answers none for 40 s."""
    at = effect("Load", target, strategy)
    frozen = Fault(at, "freeze", 1.0, {"seconds": 40.0})
    result = go(frozen, Fault(at, "cancel", 2.0), target=target, strategy=strategy)
    assert result.states == ("cancelled",)
    asked, cut = lines(result, "a cancel is asked for")[0], lines(result, "cuts its call")[0]
    assert cut - asked <= 2.0
    assert lines(result, "end as cancelled")[0] - asked < 60.0


def test_what_a_frozen_server_does_as_it_thaws_is_undone() -> None:
    """A load with other options still waits at the frozen server after its caller has disconnected.
    When the server thaws, it unloads the old model for this load (fact 12), although nobody wants
    the load any more."""
    result = go(*thawing(), target="mid-a-long")
    assert result.states == ("cancelled",)
    gone, loads = lines(result, "host: mid-a is gone"), lines(result, "Load(")
    assert len(gone) == 1
    assert gone[0] < loads[-1], "it was loaded again"


def test_a_server_that_stays_frozen_is_given_up_in_bounded_time_and_loudly() -> None:
    at = effect("Load")
    frozen = Fault(at, "freeze", 1.0, {"seconds": 200.0})
    result = go(frozen, Fault(at, "cancel", 2.0), strategy="overlap")
    (row,) = result.rows
    assert (row.state, row.degraded) == ("failed", True)
    assert "does not answer, so what it holds is not known" in row.outcome
    asked, ended = lines(result, "a cancel is asked for")[0], lines(result, "end as failed")[0]
    assert ended - asked < 80.0


def test_what_comes_up_for_a_process_that_stands_still_is_named_by_the_watcher() -> None:
    """The paused process keeps its connection open, so the server continues loading. The next
    worker restores and ends the switch without knowing of that load (fact 8)."""
    at = effect("Load")
    still = Fault(at, "pause", 1.0, {"seconds": 60.0, "answer_first": True})
    schedule = Schedule("mid-b", "overlap", faults=(still,), load_rate=SLOW)
    with transaction.atomic():
        world = World(schedule)
        world.run()
        assert not invariants.check(world)
        assert [e.state for e in world.ends] == [State.ROLLED_BACK]
        assert {r.name.short for r in world.host.resident()} == {"mid-a", "mid-b"}
        found = find_drift(watched_hosts()[world.host_id].desired, ReadingHistory(), reading(world))
        transaction.set_rollback(True)
    assert [(f.kind, f.model) for f in found] == [(Kind.FOREIGN, "mid-b")]


def reading(world: World) -> Observation:
    return Observation(world.clock.now(), world.host.resident(), world.host.installed())


def test_of_two_processes_only_one_touches_the_host() -> None:
    result = go(target="big", second_offset_s=0.0)
    assert result.states == ("active",)
    assert not has(result, "process 2 takes up")


def test_two_processes_one_of_which_hands_over() -> None:
    for at in points(faultless("big", "swap").effects):
        result = go(Fault(at, "stop", 0.5), target="big", strategy="swap")
        assert State(result.states[0]) in (State.ACTIVE, State.ROLLED_BACK)


def ask(at: int, after_s: float = 0.0) -> Fault:
    return Fault(at, "ask", after_s, {"target": "big"})


def test_a_second_admin_gets_a_refusal_while_one_runs_and_a_switch_after_it() -> None:
    early = go(ask(3))
    assert early.states == ("active",)
    assert has(early, "is already switching to mid-b")
    late = go(ask(effect("Unload"), 1.0))
    assert late.states == ("active", "active")


def test_a_model_whose_keep_alive_runs_out_in_the_middle() -> None:
    short: dict[str, Any] = {"tag": "mid-a", "keep_alive": "1s", "tokens": 0}
    for at in points(faultless("mid-b", "overlap").effects):
        go(Fault(at, "client", 0.0, short), strategy="overlap", load_rate=FAST)
