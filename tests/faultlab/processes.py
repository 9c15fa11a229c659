"""One process of Switchboard: its worker's rounds, and the run of a switch, effect by effect.

It does what `switching.worker.run_once` and `switching.driver.Driver` do, with the same check of
the lease before each call and the same lease keeper, but never waits: each answer, pause and round
is an event of the timeline. A process can be paused or killed between any two events.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from switcher.domain.errors import FenceLost
from switcher.ollama.calls import Call
from switcher.ollama.client import Ollama
from switcher.ollama.errors import CallCut
from switcher.records import claimed_switch, leases, switches
from switcher.switching import worker
from switcher.switching.driver import Driver
from switcher.switching.effects import Effect, Pause, ReadGate, Steps
from switcher.switching.errors import Cancelled
from switcher.switching.lease_keeper import POLL_INTERVAL_S, WATCH_INTERVAL_S, ShuttingDown
from switcher.switching.steps import run
from tests.faultlab.hosts import Exchange
from tests.faultlab.keepers import LabKeeper
from tests.faultlab.schedules import Fault
from tests.faultlab.watched import Killed, WatchedSwitch

if TYPE_CHECKING:
    from tests.faultlab.world import World

FIRST_WATCH_S = 0.13  # so that checks of the clock and renewals do not coincide


@dataclass(eq=False, slots=True)
class Run:
    """A switch that this process runs."""

    held: WatchedSwitch
    keeper: LabKeeper
    driver: Driver
    steps: Steps[None]
    call: Call | None = None
    exchange: Exchange | None = None
    watching: AbstractContextManager[None] | None = None
    begun_at: float = 0.0
    paused_in_call: bool = False
    resumed_at: float = 0.0
    dies_with_answer: bool = False
    over: bool = False


@dataclass(eq=False, slots=True)
class Process:
    """A server process. After it has died it stays dead; another one is started instead."""

    world: World
    name: str
    alive: bool = True
    faulty: bool = True  # whether the schedule's faults apply to it
    run: Run | None = None
    paused: bool = False
    answer_first: bool = True  # after a pause, before the keeper's ticks
    stopping: bool = False
    _kept: list[Callable[[], None]] = field(default_factory=list)  # to run after the pause
    _answers: list[Callable[[], None]] = field(default_factory=list)  # that came meanwhile

    # -- looking for work, as worker.Worker does

    def start(self, offset_s: float = 0.0) -> None:
        self.world.after(offset_s, self._round)

    def _round(self) -> None:
        if not self.alive or self.stopping:
            return
        if self.paused:
            self._kept.append(self._round)
            return
        self.look_once()
        if self.alive:
            self.world.after(worker.LOOK_INTERVAL_S, self._round)

    def look_once(self) -> None:
        """Claim an open switch on the host, if there is one."""
        if self.run is not None or not self.alive or self.paused or self.stopping:
            return
        for switch_id, host_id in switches.unclaimed(self.world.clock):
            if host_id == self.world.host_id:
                self._guarded(lambda switch_id=switch_id: self._take_up(switch_id))  # type: ignore[misc]
                return

    # -- one switch, as worker.run_once runs it

    def _take_up(self, switch_id: int) -> None:
        world = self.world
        fence = leases.take(world.host_id, self.name, world.clock)
        if fence is None:
            return
        world.oracle.taken(fence, world.t)
        held = claimed_switch.claim(switch_id, fence, world.clock)
        if held is None:
            self._give_back(fence)
            return
        world.oracle.held(switch_id, fence)
        watched = WatchedSwitch.watch(held, world, self)
        keeper = LabKeeper(watched, world.clock, world.oracle.renewed)
        # Only its check of the lease before each call is used; the calls are made by the lab.
        driver = Driver(watched, cast("Ollama", None), keeper, world.clock)
        self.run = Run(watched, keeper, driver, run(watched))
        world.trace(f"{self.name} takes up switch {switch_id}, {held.state}, fence {fence}")
        self._keep(self.run)
        self._watch(self.run, FIRST_WATCH_S)
        self._go_on(self.run)

    def _give_back(self, fence: int) -> None:
        leases.give_back(self.world.host_id, fence)
        self.world.oracle.given_back(fence, self.world.t)

    def _finish(self, run: Run, why: str) -> None:
        run.over = True
        run.steps.close()
        self.run = None
        self.world.trace(f"{self.name} leaves switch {run.held.id}: {why}")
        self._give_back(run.held.fence)
        if why == "ended":
            self.world.after(0.0, self.look_once)

    def die(self) -> None:
        """Stop everything at once, as `kill -9` does: its connections close."""
        if not self.alive:
            return
        self.alive = False
        self.world.trace(f"{self.name} dies")
        if self.run is not None:
            run, self.run = self.run, None
            run.over = True
            if run.exchange is not None:
                self.world.host.close(run.exchange)
                self.world.call_ended(self, run)
            run.steps.close()
        self.world.died()

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Killed:
            self.die()

    # -- effect by effect, as driver.Driver performs them

    def _go_on(self, run: Run, value: Any = None, failure: Exception | None = None) -> None:
        while True:
            try:
                effect = run.steps.throw(failure) if failure else run.steps.send(value)
            except StopIteration:
                self._finish(run, "ended")
                return
            except FenceLost as exc:
                self._finish(run, exc.text)
                return
            except Exception as exc:
                self._end_after_bug(run, exc)
                return
            if not self._may_begin(run, effect):
                return
            value, failure = None, None
            try:
                run.driver._check()
            except Cancelled as exc:
                failure = exc
                continue
            except (FenceLost, ShuttingDown) as exc:
                self._finish(run, type(exc).__name__)
                return
            if isinstance(effect, ReadGate):
                value = self.world.standing()
                continue
            self._begin(run, effect)
            return

    def _end_after_bug(self, run: Run, exc: Exception) -> None:
        """End a switch after a bug of ours as the worker does. In the lab this is always a
        violation."""
        self.world.violate("no unexpected error", f"{type(exc).__name__}: {exc}")
        try:
            worker._end_after_bug(run.held, exc)
        except Exception as again:
            self.world.violate("no unexpected error", f"{type(again).__name__}: {again}")
        self._finish(run, "internal")

    def _may_begin(self, run: Run, effect: Effect) -> bool:
        """Apply the faults that are due just before this effect. Return False if the process cannot
        continue now."""
        faults = self.world.begun(self, effect) if self.faulty else []
        run.dies_with_answer = False
        self._wire = {f.kind: f.args for f in faults}
        for fault in faults:
            self.strike(fault)
        if not self.alive:
            return False
        if self.paused:
            self._kept.append(lambda: self._resume_before(run, effect))
            return False
        return True

    def _resume_before(self, run: Run, effect: Effect) -> None:
        """Continue after a pause between two effects: the lease is checked after the pause."""
        if run.over:
            return
        try:
            run.driver._check()
        except Cancelled as exc:
            self._go_on(run, failure=exc)
        except (FenceLost, ShuttingDown) as exc:
            self._finish(run, type(exc).__name__)
        else:
            if isinstance(effect, ReadGate):
                self._go_on(run, self.world.standing())
            else:
                self._begin(run, effect)

    _wire: dict[str, Any] = field(default_factory=dict)

    def _begin(self, run: Run, effect: Effect) -> None:
        run.begun_at, run.paused_in_call = self.world.t, False
        run.call = Call()
        run.watching = run.keeper.watching(run.call)
        run.watching.__enter__()
        if isinstance(effect, Pause):
            self.world.after(effect.seconds, lambda: self._when_awake(lambda: self._rested(run)))
            return
        self.world.call_begun(self, run, effect)

        def told(exchange: Exchange) -> None:
            if self.paused:
                self._answers.append(lambda: self._answered(run, exchange))
            elif self.alive:
                self._answered(run, exchange)

        run.exchange = self.world.host.send(effect, told, lambda: run.paused_in_call, self._wire)

    def _rested(self, run: Run) -> None:
        if run.over:
            return
        self._unwatch(run)
        self._go_on(run)

    def _answered(self, run: Run, exchange: Exchange) -> None:
        if run.over or run.exchange is not exchange:
            return
        if run.dies_with_answer:
            self.die()
            return
        self.world.call_ended(self, run)
        run.exchange = None
        self._unwatch(run)
        self.world.answered(run.held, exchange)
        self._guarded(lambda: self._go_on(run, exchange.value, exchange.failure))

    def _unwatch(self, run: Run) -> None:
        if run.watching is not None:
            run.watching.__exit__(None, None, None)
        run.watching = run.call = None

    # -- its keeper's threads

    def _keep(self, run: Run) -> None:
        def tick() -> None:
            if not run.over and self.alive:
                run.keeper.renew_round()
                self._keep(run)

        self.world.after(POLL_INTERVAL_S, lambda: self._when_awake(tick))

    def _watch(self, run: Run, seconds: float = WATCH_INTERVAL_S) -> None:
        def tick() -> None:
            if not run.over and self.alive:
                self._watch(run)
                self._look_at_clock(run)

        self.world.after(seconds, lambda: self._when_awake(tick))

    def _look_at_clock(self, run: Run) -> None:
        run.keeper.watch()
        if run.call is None or not run.call.was_cut or run.exchange is None:
            return
        self.world.trace(f"{self.name} cuts its call")
        self.world.host.close(run.exchange)
        self.world.call_ended(self, run)
        run.exchange = None
        self._unwatch(run)
        try:
            run.driver._check()
        except Cancelled as exc:
            cut: Exception = exc
        except (FenceLost, ShuttingDown) as exc:
            self._finish(run, type(exc).__name__)
            return
        else:
            cut = CallCut("The call was ended from here.")
        self._guarded(lambda: self._go_on(run, failure=cut))

    # -- faults

    def strike(self, fault: Fault) -> None:
        match fault.kind:
            case "crash":
                self.die()
            case "crash_answered":
                if self.run is not None:
                    self.run.dies_with_answer = True
            case "pause":
                self.pause(fault.args["seconds"], fault.args["answer_first"])
            case "stop":
                self.stop()
            case "renewals_fail":
                if self.run is not None:
                    self.run.keeper.silent_until = self.world.t + fault.args["seconds"]

    def pause(self, seconds: float, answer_first: bool) -> None:
        """Run nothing for a while. Connections stay open."""
        if self.paused or not self.alive:
            return
        self.world.trace(f"{self.name} is paused for {seconds:g} s")
        self.paused, self.answer_first = True, answer_first
        if self.run is not None and self.run.exchange is not None:
            self.run.paused_in_call = True
        self.world.after(seconds, self.resume)

    def resume(self) -> None:
        if not self.paused or not self.alive:
            return
        self.paused = False
        self.world.trace(f"{self.name} goes on")
        if self.run is not None:
            self.run.resumed_at = self.world.t
        kept, self._kept = self._kept, []
        answers, self._answers = self._answers, []
        for act in [*answers, *kept] if self.answer_first else [*kept, *answers]:
            self._when_awake(act)

    def _when_awake(self, act: Callable[[], None]) -> None:
        if self.paused:
            self._kept.append(act)
        elif self.alive:
            self._guarded(act)

    def stop(self) -> None:
        """Stop without waiting for the switch to end: leave it to the next process."""
        self.stopping = True
        self.world.trace(f"{self.name} is told to stop")
        if self.run is not None:
            self.run.keeper.wish.set_ = True
        self.world.died()
