"""Hypothesis searches for schedules by itself, and shrinks a broken one to a minimal example."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faultlab import invariants
from tests.faultlab.lab import ALL
from tests.faultlab.processes import Process
from tests.faultlab.schedules import HOSTS, STRATEGIES, TAGS, TARGETS, Fault, Schedule
from tests.faultlab.world import World

pytestmark = pytest.mark.usefixtures("ground")

SOON_S = st.sampled_from([0.001, 0.01, 0.1, 0.5, 2.0, 5.0])
LONG_S = st.sampled_from([3.0, 14.9, 15.1, 20.0, 40.0])


class Lab(RuleBasedStateMachine):
    """A switch on one host. Each rule applies a fault or lets time pass."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self._ground = transaction.atomic()
        self._ground.__enter__()

    @initialize(
        model=st.sampled_from(TARGETS),
        strategy=st.sampled_from(STRATEGIES),
        host=st.sampled_from(HOSTS),
        restart_s=st.sampled_from([0.2, 3.0, 20.0]),
    )
    def begin(self, model: str, strategy: str, host: str, restart_s: float) -> None:
        self.world = World(Schedule(model, strategy, host, restart_s=restart_s))
        self.world.begin()

    def at_work(self) -> Process | None:
        return next((p for p in self.world.processes if p.alive and p.run is not None), None)

    # -- time

    @rule(seconds=SOON_S)
    def pass_time(self, seconds: float) -> None:
        self.world.timeline.run_to(self.world.t + seconds)

    @rule(steps=st.integers(1, 12))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.world.timeline.step()

    # -- the process that runs the switch

    @precondition(lambda self: self.at_work())
    @rule()
    def crash(self) -> None:
        self.strike("crash")

    @precondition(lambda self: self.at_work())
    @rule(seconds=LONG_S, answer_first=st.booleans())
    def pause(self, seconds: float, answer_first: bool) -> None:
        self.strike("pause", seconds=seconds, answer_first=answer_first)

    @precondition(lambda self: self.at_work())
    @rule(seconds=LONG_S)
    def fail_to_renew(self, seconds: float) -> None:
        self.strike("renewals_fail", seconds=seconds)

    @precondition(lambda self: self.at_work())
    @rule()
    def hand_over(self) -> None:
        self.strike("stop")

    @rule(
        kind=st.sampled_from(["crash", "crash_answered", "lose_request", "lose_answer", "hang"]),
        ahead=st.integers(0, 4),
    )
    def at_an_effect_to_come(self, kind: str, ahead: int) -> None:
        self.add(Fault(self.world.effects + ahead, kind))

    @rule(seconds=LONG_S, ahead=st.integers(0, 4), kind=st.sampled_from(["slow", "late"]))
    def slowly(self, seconds: float, ahead: int, kind: str) -> None:
        kind = {"slow": "slow_request", "late": "late_answer"}[kind]
        seconds = min(seconds, 2.0) if kind == "slow_request" else seconds
        self.add(Fault(self.world.effects + ahead, kind, args={"seconds": seconds}))

    @rule(after=st.booleans(), ahead=st.integers(0, 3))
    def crash_around_a_write(self, after: bool, ahead: int) -> None:
        self.add(Fault(self.world.writes + ahead, "crash_write", args={"after": after}))

    # -- the host, and people

    @rule(kind=st.sampled_from(["evict", "repull", "kill_runner"]), tag=st.sampled_from(TAGS))
    def apply_fault(self, kind: str, tag: str) -> None:
        self.world.host.apply_fault(kind, {"tag": tag})

    @rule(seconds=st.sampled_from([0.5, 4.0, 12.0, 40.0]))
    def freeze(self, seconds: float) -> None:
        self.world.host.apply_fault("freeze", {"seconds": seconds})

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0]))
    def restart(self, seconds: float) -> None:
        self.world.host.apply_fault("restart", {"seconds": seconds})

    @rule(tag=st.sampled_from(TAGS), after_s=st.sampled_from([0.0, 2.0]), evict_all=st.booleans())
    def fail_a_load(self, tag: str, after_s: float, evict_all: bool) -> None:
        args = {"tag": tag, "after_s": after_s, "evict_all": evict_all}
        self.world.host.apply_fault("fail_load", args)

    @rule(
        tag=st.sampled_from(TAGS),
        keep_alive=st.sampled_from([None, 0, "1s", "30m", -1]),
        tokens=st.sampled_from([0, 8, 240]),
    )
    def client(self, tag: str, keep_alive: object, tokens: int) -> None:
        self.world.host.apply_fault(
            "client", {"tag": tag, "keep_alive": keep_alive, "tokens": tokens}
        )

    @rule()
    def cancel(self) -> None:
        self.world.cancel()

    @rule(model=st.sampled_from(TARGETS))
    def ask(self, model: str) -> None:
        self.world.ask(model)

    def strike(self, kind: str, **args: object) -> None:
        process = self.at_work()
        assert process is not None
        process.strike(Fault(0, kind, args=args))

    def add(self, fault: Fault) -> None:
        schedule = self.world.schedule
        self.world.schedule = replace(schedule, faults=(*schedule.faults, fault))

    # -- invariants

    @invariant()
    def nothing_is_broken_on_the_way(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.violations, self.told()

    def told(self) -> str:
        return "\n".join(f"{t:10.3f} {text}" for t, text in self.world.timeline.lines)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.rest()
                assert not invariants.check(self.world), self.told()
        finally:
            transaction.set_rollback(True)
            self._ground.__exit__(None, None, None)


def test_whatever_happens_the_invariants_hold() -> None:
    run_state_machine_as_test(
        Lab,
        settings=settings(
            max_examples=1000 if ALL else 30,
            stateful_step_count=14,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
