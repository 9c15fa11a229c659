"""Test the lab itself: each planted bug must be reported, as a violation of the invariant it
breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.domain.states import State
from switcher.models import SwitchEvent
from switcher.records import leases, switches
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.switching import residency, restore, steps
from switcher.switching.effects import ListResident
from switcher.switching.lease_keeper import LeaseKeeper
from tests.faultlab import runs
from tests.faultlab.lab import (
    ENDS_WHILE_CUT_S,
    broken,
    cancelled_while_loading,
    effect,
    faultless,
    points,
    rate_for,
    thawing,
)
from tests.faultlab.runs import run_schedule
from tests.faultlab.schedules import Fault, make_schedule

pytestmark = pytest.mark.usefixtures("ground")

# Random schedules must find a planted bug within this many tries.
SEED, ENOUGH = 7, 40
BIG_IS_SLOW = Fault(0, "slow_load", args={"tag": "big", "factor": 6.0})
OLD_IS_SLOW = Fault(0, "slow_load", args={"tag": "mid-a", "factor": 6.0})


@pytest.fixture(autouse=True)
def _known(ground: None) -> None:
    """Play the switches without faults before a bug is planted: tests look up effects in those
    runs."""
    for target, strategy in (("big", "swap"), ("mid-b", "overlap"), ("mid-a-long", "auto")):
        faultless(target, strategy)


def found_by_chance(*rules: str, among: int = ENOUGH) -> bool:
    """Return whether random schedules also break one of these invariants."""
    schedules = (make_schedule(SEED, number) for number in range(among))
    return any(v.rule in rules for s in schedules for v in run_schedule(s).violations)


def in_load(kind: str, after_s: float, **args: Any) -> Fault:
    """Return a fault that happens while big is being loaded, in a swap."""
    return Fault(effect("Load", "big", "swap"), kind, after_s, args)


def stands_still(seconds: float) -> Fault:
    return in_load("pause", 1.0, seconds=seconds, answer_first=True)


def pulled_again() -> Fault:
    return in_load("repull", 0.0, tag="big")


def unrenewed(after_s: float = 0.1) -> Fault:
    return in_load("renewals_fail", after_s, seconds=20.0)


def test_without_a_planted_bug_the_same_schedules_break_nothing() -> None:
    assert broken() == set()
    for fault in (stands_still(40.0), stands_still(20.0), unrenewed(), pulled_again()):
        assert broken(fault) == set()
        assert broken(BIG_IS_SLOW, fault) == set()
        assert broken(OLD_IS_SLOW, fault) == set()
    for number in range(ENOUGH):
        result = run_schedule(make_schedule(SEED, number))
        assert not result.violations, result.schedule.lines()


@pytest.fixture
def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writes skip the check of the fence."""

    def lock(switch: ClaimedSwitch, to: State | None) -> SwitchEvent:
        return SwitchEvent.objects.get(pk=switch.id)

    monkeypatch.setattr(ClaimedSwitch, "_lock_row", lock)


def test_writes_without_a_fence_are_reported(no_fence: None) -> None:
    rules = broken(stands_still(40.0))
    assert "no unexpected error" in rules, "the database's seal stops it: the switch has ended"
    assert "no write with a stale fence" in broken(OLD_IS_SLOW, stands_still(20.0))


def test_writes_without_a_fence_are_found_by_chance(no_fence: None) -> None:
    assert found_by_chance("no write with a stale fence", "no unexpected error")


@pytest.fixture
def no_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activate whatever has answered."""

    def nothing(switch: ClaimedSwitch) -> Iterator[Any]:
        return
        yield

    monkeypatch.setattr(steps, "verify", nothing)
    monkeypatch.setattr(steps, "check_listed", lambda switch, now: None)


def test_activating_without_verifying_is_reported(no_verify: None) -> None:
    rules = broken(pulled_again())
    assert {"only what was verified is activated", "recorded is physical"} <= rules
    assert found_by_chance("only what was verified is activated")


def test_a_lab_without_recovery_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    unclaimed = switches.unclaimed

    def only_new(*args: Any) -> list[tuple[int, int]]:
        rows = SwitchEvent.objects.filter(state=State.QUEUED.value).values_list("pk", flat=True)
        return [row for row in unclaimed(*args) if row[0] in rows]

    monkeypatch.setattr(switches, "unclaimed", only_new)
    for at in points(faultless("mid-b", "overlap").effects - 3):
        assert broken(Fault(at, "crash"), target="mid-b", strategy="overlap") == {"one end each"}
    assert found_by_chance("one end each")


@pytest.mark.parametrize("answer_first", [True, False])
def test_calls_without_a_look_at_the_lease_are_reported(
    monkeypatch: pytest.MonkeyPatch, answer_first: bool
) -> None:
    monkeypatch.setattr(LeaseKeeper, "check", lambda keeper: None)
    args = {"seconds": 40.0, "answer_first": answer_first}
    before = Fault(effect("Unload", "big", "swap"), "pause", 0.0, args)
    assert "no call after the lease" in broken(before)
    assert found_by_chance("no call after the lease")


def test_a_lease_that_is_never_checked_against_the_clock_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "holds", lambda *_: True)
    assert found_by_chance("no call after the lease")


def test_leases_that_end_by_the_wall_clock_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    dies, clock = in_load("crash", 1.0), in_load("set_clock", 2.0, seconds=-3600.0)
    assert not broken(dies, clock)
    monkeypatch.setattr(leases, "shared_now", lambda clock: clock.now())
    monkeypatch.setattr(leases, "furthest_ahead", lambda *_: timedelta(days=365))
    assert "one end each" in broken(dies, clock)


def test_calls_that_nobody_cuts_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeaseKeeper, "_cut", lambda keeper: None)
    rules = broken(BIG_IS_SLOW, unrenewed())
    assert "no call outlasts the lease" in rules
    # Rarer than others, since a lease is renewed as soon as a pause ends.
    assert found_by_chance("no call outlasts the lease", among=2 * ENOUGH)


def test_calls_that_are_cut_only_after_the_lease_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock is checked every WATCH_INTERVAL_S, so the end of the lease may be noticed that much
    too late."""

    def watch(keeper: LeaseKeeper) -> None:
        if keeper._clock.monotonic() >= keeper._valid_until:
            keeper._lost = True
        if keeper._lost:
            keeper._cut()

    monkeypatch.setattr(LeaseKeeper, "watch", watch)
    found = [
        "no call outlasts the lease" in broken(BIG_IS_SLOW, unrenewed(after_s))
        for after_s in (0.1, 1.03, 2.07)
    ]
    assert any(found)


def test_moves_without_an_entry_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClaimedSwitch, "_append_entry", lambda *_: None)
    assert "the entries tell the same story" in broken()


def test_a_restore_that_only_says_so_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def claim(switch: ClaimedSwitch, loaded_again: dict[str, None]) -> Iterator[Any]:
        loaded_again["mid-a"] = None
        return ()
        yield

    monkeypatch.setattr(restore, "_bring_back", claim)
    failing = Fault(0, "fail_load", args={"tag": "big", "after_s": 1.0, "evict_all": False})
    assert "recorded is physical" in broken(failing)


@pytest.mark.parametrize("load_s", ENDS_WHILE_CUT_S[1:])  # the first has ended too early
def test_a_restore_that_does_not_await_the_end_of_a_cut_load_is_reported(
    monkeypatch: pytest.MonkeyPatch, load_s: float
) -> None:
    monkeypatch.setattr(restore, "NOTICED_S", 0.0)
    rules = broken(
        cancelled_while_loading(), target="mid-b", strategy="overlap", load_rate=rate_for(load_s)
    )
    assert rules == {"nothing is left over"}


def test_a_restore_that_trusts_the_first_answer_of_a_server_that_hung_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(residency, "NOTICED_S", 0.0)
    rules = broken(*thawing(), target="mid-a-long", strategy="auto")
    assert rules == {"recorded is physical"}


def test_an_activation_that_does_not_heed_its_last_look_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = Fault(effect("ListResident", "big", "swap", nth=-2), "evict", args={"tag": "big"})
    assert broken(lost) == set()
    _ignore_at(State.ACTIVATING, monkeypatch)
    assert broken(lost) == {"only what was verified is activated"}


def _ignore_at(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the host in this state, but go on whatever it lists."""
    check, held_state = steps.check_listed, {}

    def move(switch: ClaimedSwitch, to: State, *args: Any, **facts: Any) -> None:
        held_state["now"] = to
        original(switch, to, *args, **facts)

    original = ClaimedSwitch.move
    monkeypatch.setattr(ClaimedSwitch, "move", move)
    monkeypatch.setattr(
        steps,
        "check_listed",
        lambda switch, now: None if held_state.get("now") is state else check(switch, now),
    )


def test_an_end_that_does_not_look_for_the_new_model_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look(switch: ClaimedSwitch) -> Iterator[Any]:
        return (yield ListResident())

    monkeypatch.setattr(steps, "_ensure_loaded", look)
    lost = Fault(effect("Unload") + 1, "evict", args={"tag": "mid-b"})
    assert broken(lost, target="mid-b", strategy="overlap") == {"recorded is physical"}


def test_an_unload_that_is_asked_for_before_the_activation_is_no_matter_of_luck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A switch that does not wait until the old model has left claims that it has."""

    def at_once(digests: frozenset[str]) -> Iterator[Any]:
        return ""
        yield

    monkeypatch.setattr(steps, "wait_until_unloaded", at_once)
    busy = Fault(0, "ignore_unload", args={"tag": "mid-a"})
    assert "nothing is left over" in broken(busy, target="mid-b", strategy="overlap")


def test_two_ends_are_reported(no_fence: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fence and the database's triggers, a switch can end twice."""
    drop_triggers()
    try:
        rules: Counter[str] = Counter()
        for at in range(4, 10):
            pause = Fault(at, "pause", 0.001, {"seconds": 40.0, "answer_first": True})
            monkeypatch.setattr(LeaseKeeper, "check", lambda keeper: None)
            rules.update(broken(pause))
        assert rules["one end each"]
    finally:
        make_triggers()


def test_the_ground_is_the_same_for_each_schedule() -> None:
    before = SwitchEvent.objects.count()
    results = [runs.run_schedule(make_schedule(3, 5)) for _ in range(2)]
    assert SwitchEvent.objects.count() == before

    # Row numbers differ, as the database does not reset its counters.
    assert results[0].states == results[1].states
    assert [t for t, _ in results[0].lines] == [t for t, _ in results[1].lines]
