"""Invariants that hold whatever clients do, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ollama_simulator.faults import read_fault
from ollama_simulator.runner import Ask
from tests.ollama_simulator.conftest import World

MODELS = st.sampled_from(["a", "b", "c", "huge"])


class AnyOrder(RuleBasedStateMachine):
    """A state machine of clients of a small host."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(max_loaded=2, max_queue=4)
        self.twin = World(max_loaded=2, max_queue=4)
        self.asks: list[tuple[Ask, Ask]] = []

    def both(self, act: Any) -> None:
        act(self.world)
        act(self.twin)

    @rule(
        model=MODELS,
        tokens=st.integers(1, 500),
        empty=st.booleans(),
        keep_alive=st.sampled_from([None, 0, -1, "3s", "5m"]),
        num_ctx=st.sampled_from([None, 1024]),
    )
    def ask(
        self, model: str, tokens: int, empty: bool, keep_alive: object, num_ctx: int | None
    ) -> None:
        more = {"empty": empty, "keep_alive": keep_alive, "options": {"num_ctx": num_ctx}}
        pair = [w.ask(model, tokens=tokens, **more) for w in (self.world, self.twin)]
        self.asks.append((pair[0], pair[1]))

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.both(lambda w: w.pass_s(seconds))

    @precondition(lambda self: self.asks)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        first, second = data.draw(st.sampled_from(self.asks))
        self.world.server.abandon(first)
        self.twin.server.abandon(second)

    @rule(model=MODELS, kind=st.sampled_from(["evict", "kill_runner", "repull"]))
    def befall(self, model: str, kind: str) -> None:
        self.both(lambda w: w.server.do(read_fault({"kind": kind, "tag": model})))

    @rule(kind=st.sampled_from(["restart"]))
    def restart(self, kind: str) -> None:
        self.both(lambda w: w.server.do(read_fault({"kind": kind})))

    @rule(model=MODELS, evict_all=st.booleans())
    def fail(self, model: str, evict_all: bool) -> None:
        row = {"kind": "fail_load", "tag": model, "evict_all": evict_all, "times": 1}
        self.both(lambda w: w.server.faults.add(read_fault(row)))

    @invariant()
    def it_holds_no_more_than_it_has(self) -> None:
        machine = self.world.server.machine
        loading = [machine.loading] if machine.loading is not None else []
        assert len(machine.runners) + len(loading) <= 2
        assert sum(r.size_vram for r in [*machine.runners, *loading]) <= machine.config.vram

    @invariant()
    def each_file_is_loaded_once(self) -> None:
        blobs = [r.manifest.blob for r in self.world.server.machine.runners]
        assert len(blobs) == len(set(blobs))

    @invariant()
    def only_what_serves_somebody_is_busy(self) -> None:
        for runner in self.world.server.machine.runners:
            assert all(a.state in ("waiting", "running") for a in runner.asks)
            assert not (runner.asks and runner.leaving)

    @invariant()
    def the_same_acts_have_the_same_effect(self) -> None:
        assert self.world.server.ps() == self.twin.server.ps()
        assert list(self.world.server.machine.journal) == list(self.twin.server.machine.journal)

    def teardown(self) -> None:
        for ask, _ in self.asks:
            self.world.finish(ask)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
