"""One schedule as it is played: processes, host, records and faults on one timeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ollama_simulator.server import Request
from switcher.audit.ledger import Actor
from switcher.domain.errors import Conflict, NotFound
from switcher.domain.specs import Spec
from switcher.domain.states import ENDED, State, Strategy
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.ollama.errors import OllamaError
from switcher.queries.gates import GateStatus
from switcher.records import switches
from switcher.records.switches import ResolvedRequest
from switcher.switching.effects import Effect, ListResident, Warm
from switcher.switching.lease_keeper import WATCH_INTERVAL_S
from tests.faultlab.clock import LabClock
from tests.faultlab.hosts import Exchange, LabHost
from tests.faultlab.processes import Process, Run
from tests.faultlab.schedules import WIRE, Fault, Schedule
from tests.faultlab.timeline import Timeline
from tests.faultlab.watched import Oracle, WatchedSwitch

ANNA = Actor("anna", "page")
BEN = Actor("ben", "api")
LONGEST_S = 300.0  # with faults
REST_S = 400.0  # for the last process to end everything
MAX_STEPS = 50_000  # in each of the two parts; about 200 are usual
LATE_S = 0.001  # tolerance when times are compared
RESIDENT = {"north-1": ("mid-a",), "north-2": (), "north-3": ("mid-a", "embed")}
_PROCESS = frozenset({"crash", "crash_answered", "pause", "stop", "renewals_fail"})
_PEOPLE = frozenset({"cancel", "ask", "in_flight"})


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold."""

    rule: str
    text: str
    at: float = 0.0

    def __str__(self) -> str:
        return f"{self.rule}: {self.text} (at {self.at:.3f} s)"


@dataclass(frozen=True, slots=True)
class End:
    """How a switch ended, and when its worker had last read the host."""

    at: float
    switch_id: int
    state: State
    looked_at: float | None


class World:
    """A schedule as it is played. `run` plays it until it has come to rest. After that,
    `violations` has what was broken along the way, and `invariants.check` finds what is wrong at
    the end."""

    def __init__(self, schedule: Schedule, resident: tuple[str, ...] | None = None) -> None:
        self.schedule = schedule
        self.timeline = Timeline()
        self.host = LabHost(self.timeline, schedule.load_rate)
        self.oracle = Oracle()
        self.violations: list[Violation] = []
        self.host_id = Host.objects.values_list("pk", flat=True).get(name=schedule.host)
        self.opened: list[int] = []
        self.ends: list[End] = []
        self.in_flight = 0
        self.effects = self.writes = 0
        self.processes: list[Process] = []
        self._looks: dict[int, tuple[float, set[str]]] = {}  # the last reading of each fence
        self._warmed: set[int] = set()  # fences under which the new model answered
        self._pending = 0  # faults that have not happened yet
        self._faults_over = False
        self._occupy(RESIDENT[schedule.host] if resident is None else resident)
        self.began = self.t

    def _occupy(self, tags: tuple[str, ...]) -> None:
        for tag in tags:
            kind = "embed" if tag == "embed" else "generate"
            ask = self.host.server.submit(Request(tag, kind, kind != "embed", "30m"))
            while not ask.ended:
                self.timeline.step()
        row = Host.objects.get(pk=self.host_id)
        if row.published_as:  # as the earlier switch has left it
            self.host.server.copy(row.published_tag, row.published_as)
        self.timeline.run_to(self.t + 1.0)

    # -- time

    @property
    def t(self) -> float:
        return self.timeline.t

    @property
    def clock(self) -> LabClock:
        return self.timeline.clock

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.timeline.after(seconds, act)

    def trace(self, text: str) -> None:
        self.timeline.trace(text)

    def violate(self, rule: str, text: str) -> None:
        self.violations.append(Violation(rule, text, self.t))
        self.trace(f"VIOLATION: {rule}: {text}")

    # -- from the start until it has come to rest

    def run(self) -> None:
        """Play the whole schedule. `invariants.check` then finds what is wrong at the end."""
        self.begin()
        self._go_on(LONGEST_S, self._at_rest)
        self.rest()

    def _go_on(self, seconds: float, over: Callable[[], bool]) -> None:
        """Run events until `over` returns True, but for `seconds` at most."""
        until, steps = self.t + seconds, 0
        while not over() and self.t < until:
            self.timeline.step()
            steps += 1
            if steps > MAX_STEPS:
                self.violate("time goes on", f"{steps} steps, and no end")
                return

    def begin(self) -> None:
        """Request the switch and start two processes."""
        self.ask(self.schedule.target, self.schedule.strategy)
        for offset_s in (0.0, self.schedule.second_offset_s):
            self._start(offset_s)

    def rest(self) -> None:
        """End all faults, and let one last process finish what is left."""
        self._faults_over = True
        self.host.clear_faults()
        for process in self.processes:
            process.faulty = False
        self.in_flight = 0
        self._start(0.0)
        self._go_on(REST_S, lambda: self._at_rest() and not self.host.busy)
        self.timeline.run_to(self.t + 1.0)

    def _at_rest(self) -> bool:
        if len(self.ends) < len(self.opened) or self._pending:
            return False
        return not any(p.alive and (p.paused or p.run is not None) for p in self.processes)

    def _start(self, offset_s: float) -> None:
        process = Process(self, f"process {len(self.processes) + 1}", faulty=not self._faults_over)
        self.processes.append(process)
        process.start(offset_s)

    def died(self) -> None:
        """Start another process some time after one has ended."""
        self.after(self.schedule.restart_s, lambda: self._start(0.0))

    # -- people

    def ask(self, target: str, strategy: str = "auto") -> None:
        profile = ModelProfile.objects.get(name=target)
        host = Host.objects.get(pk=self.host_id)
        request = ResolvedRequest(
            host, Spec.of_profile(profile), profile.pk, Strategy(strategy), "because"
        )
        try:
            row, _ = switches.open_switch(request, ANNA, clock=self.clock)
        except Conflict as exc:
            self.trace(f"asked for {target}: {exc.text}")
            return
        self.opened.append(row.pk)
        self.trace(f"switch {row.pk} to {target} is asked for")
        for process in self.processes:  # the wake-up
            self.after(0.0, process.look_once)

    def cancel(self) -> None:
        try:
            switches.request_cancel(self.opened[-1], BEN, self.clock)
            self.trace("a cancel is asked for")
        except (Conflict, NotFound) as exc:
            self.trace(f"asked for a cancel: {exc.text}")

    # -- faults of the schedule

    def begun(self, process: Process, effect: Effect) -> list[Fault]:
        """Return the faults that hit this effect's process or network as it begins, and schedule
        the later ones."""
        number, self.effects = self.effects, self.effects + 1
        self.trace(f"{process.name}: effect {number} {_short(effect)}")
        now = []
        for fault in self.schedule.faults:
            if fault.at != number or fault.kind == "crash_write":
                continue
            if fault.after_s == 0 and fault.kind in WIRE | _PROCESS:
                now.append(fault)
            else:
                self._later(process, fault)
        return now

    def _later(self, process: Process, fault: Fault) -> None:
        def strike() -> None:
            self._pending -= 1
            if not self._faults_over:
                self.strike(process, fault)

        self._pending += 1
        if fault.after_s:
            self.after(fault.after_s, strike)
        else:
            strike()

    def strike(self, process: Process, fault: Fault) -> None:
        """Apply one fault now."""
        if fault.kind in _PROCESS:
            process.strike(fault)
        elif fault.kind == "cancel":
            self.cancel()
        elif fault.kind == "ask":
            self.ask(fault.args["target"])
        elif fault.kind == "in_flight":
            self.in_flight = 1
            self.after(fault.args["seconds"], self._none_in_flight)
        elif fault.kind == "set_clock":
            self.clock.set_wall_clock(fault.args["seconds"])
        else:
            self.host.apply_fault(fault.kind, fault.args)

    def standing(self) -> GateStatus:
        """Return what the gateway's processes report: all know of the gate, and so many requests
        are in flight."""
        return GateStatus(processes=0, unaware=0, in_flight=self.in_flight)

    def _none_in_flight(self) -> None:
        self.in_flight = 0

    def write_kills(self, process: Process, after: bool) -> bool:
        """Return whether the process dies just before or just after this write."""
        number = self.writes - 1 if after else self.writes
        self.writes += 0 if after else 1
        return process.faulty and any(
            f.kind == "crash_write" and f.at == number and f.args["after"] == after
            for f in self.schedule.faults
        )

    # -- checks along the way

    def call_begun(self, process: Process, run: Run, effect: Effect) -> None:
        if not self.oracle.may_call(run.held.fence, self.t):
            self.violate("no call after the lease", f"{process.name} began {_short(effect)}")

    def call_ended(self, process: Process, run: Run) -> None:
        """Check that no call outlasted the lease. A process that is paused cannot cut its call; it
        must do so as soon as it resumes."""
        until = self.oracle.until[run.held.fence]
        if run.paused_in_call:
            until = max(until, run.resumed_at + WATCH_INTERVAL_S if not process.paused else self.t)
        if self.t > until + LATE_S and process.alive:
            late = self.t - until
            self.violate("no call outlasts the lease", f"{process.name}'s by {late:.3f} s")

    def answered(self, held: WatchedSwitch, exchange: Exchange) -> None:
        if isinstance(exchange.failure, OllamaError):
            self.trace(f"  failed: {exchange.failure.text}")
            return
        if isinstance(exchange.effect, ListResident):
            self._looks[held.fence] = (exchange.handled_at, {r.digest for r in exchange.value})
        elif isinstance(exchange.effect, Warm):
            self._warmed.add(held.fence)

    def activating(self, held: WatchedSwitch, digest: str) -> None:
        _, digests = self._looks.get(held.fence, (0.0, set()))
        if digest not in digests or held.fence not in self._warmed:
            text = f"{digest[:12]} was activated without having been seen there and answered"
            self.violate("only what was verified is activated", text)

    def wrote(self, held: WatchedSwitch, what: str) -> None:
        self.trace(f"  write {self.writes - 1}: {what}")
        if held.fence < self.oracle.holders.get(held.id, 0):
            self.violate("no write with a stale fence", f"{what} with fence {held.fence}")
        if held.state in ENDED and what != "note":
            look = self._looks.get(held.fence)
            looked_at = look[0] if look else None
            self.ends.append(End(self.t, held.id, held.state, looked_at))

    def rows(self) -> list[SwitchEvent]:
        return list(SwitchEvent.objects.filter(pk__in=self.opened).order_by("pk"))


def _short(effect: Effect) -> str:
    return str(effect).split("warmups=")[0][:100]
