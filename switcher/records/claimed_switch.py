"""A switch that a worker has claimed: every write to it, from the claim to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system
from switcher.domain.errors import FenceLost
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Resident
from switcher.domain.plans import Plan
from switcher.domain.specs import Spec
from switcher.domain.states import ENDED, OPEN, State, Strategy, can_move
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.records.leases import LeaseHolder


@dataclass(frozen=True, slots=True)
class RecordedPlan:
    """What was decided before anything was touched, in the form in which the record keeps it."""

    before: tuple[Resident, ...]  # what was resident
    strategy: Strategy
    digest: str  # of the new model
    unload: Mapping[str, ModelName]  # the models that the switch itself unloads, by digest
    had_room: bool = False  # the new model was to fit beside all that was loaded
    cloud: bool = False  # the new model runs elsewhere, so nothing is loaded for it


@dataclass
class ClaimedSwitch:
    """A switch claimed by the worker that holds the host's lease.

    `row` is the record as it was when the switch was claimed; `state` is its state now. Each write
    happens only if the fence is still ours and the state is the one that we left (rule 3);
    otherwise it raises FenceLost, and the worker must not touch the host again.
    """

    row: SwitchEvent
    fence: int
    state: State
    clock: Clock = system
    _entered: float | None = field(default=None, init=False)  # the phase, on the monotonic clock

    @property
    def id(self) -> int:
        return self.row.pk

    @property
    def host_id(self) -> int:
        return self.row.host_id

    @property
    def host(self) -> str:
        """The host's name."""
        return self.row.host.name

    @property
    def actor(self) -> Actor:
        return Actor(self.row.actor, self.row.source, self.row.actor_id)

    @property
    def holder(self) -> LeaseHolder:
        return LeaseHolder(self.host_id, self.fence, self.actor, self.id, self.clock)

    @cached_property
    def spec(self) -> Spec:
        """The new model and how it is loaded."""
        return Spec.from_json(self.row.to_spec)

    @cached_property
    def old_spec(self) -> Spec | None:
        """The model that was active when the switch was requested; None if none was."""
        return Spec.from_json(self.row.from_spec) if self.row.from_spec else None

    @property
    def old_digest(self) -> str:
        return self.row.from_digest

    @cached_property
    def pinned(self) -> tuple[Spec, ...]:
        """The profiles that are kept resident on the host beside the active one."""
        return tuple(Spec.of_profile(profile) for profile in self.row.host.pinned.all())

    @cached_property
    def recorded_plan(self) -> RecordedPlan | None:
        """The recorded plan; None until a worker has made one."""
        row = self.row
        if not row.plan or row.before is None:
            return None
        return RecordedPlan(
            before=tuple(Resident.from_json(r) for r in row.before),
            strategy=Strategy(row.strategy),
            digest=row.to_digest,
            unload={i["digest"]: ModelName.parse(i["name"]) for i in row.plan["unload"]},
            had_room=row.plan.get("had_room", False),
            cloud=row.plan.get("cloud", False),
        )

    @property
    def plan(self) -> RecordedPlan:
        """The plan, which exists in every state after CHECKING."""
        assert self.recorded_plan is not None, "the plan is recorded before anything is touched"
        return self.recorded_plan

    def record_plan(self, plan: Plan, before: tuple[Resident, ...]) -> None:
        """Record what will be done, and what was resident before."""
        self.note(before=snapshot(before), **plan_facts(plan))
        unload = {item.digest: item.name for item in plan.unload}
        self.recorded_plan = RecordedPlan(
            before, plan.strategy, plan.digest, unload, plan.had_room, plan.cloud
        )

    def seconds_in(self, state: State) -> float:
        """Return how long the switch was in a state that it has left."""
        phases = SwitchEvent.objects.values_list("phases", flat=True).get(pk=self.id)
        return sum(p["seconds"] or 0.0 for p in phases if p["phase"] == state.value)

    def learn_limit(self, models: int) -> None:
        """Record how many models the server was found to keep loaded at once."""
        with writing():
            row = self._lock_row(None)
            Host.objects.filter(pk=row.host_id).update(learned_max_loaded=max(1, models))

    def warn(self, text: str) -> None:
        """Record a problem that does not stop the switch."""
        self.note(warning=text)

    def record_woken(self, mac: str) -> None:
        """Record that the host did not answer and was sent a Wake-on-LAN packet."""
        with writing():
            row = self._lock_row(None)
            text = f"{self.host} did not answer and was sent a Wake-on-LAN packet."
            _set_facts(row, {"warning": text})
            row.save()
            append(
                "host.woken",
                self.actor,
                host=self.host,
                switch=row,
                clock=self.clock,
                mac_address=mac,
            )

    def note(self, **facts: Any) -> None:
        """Record facts without changing the state."""
        with writing():
            row = self._lock_row(None)
            _set_facts(row, facts)
            row.save()

    def move(self, to: State, note: str = "", **facts: Any) -> None:
        """Move to another open state. `note` is about the phase that ends."""
        with writing():
            row = self._lock_row(to)
            self._enter(row, to, note, facts)
            row.save()
            self._append_entry(row, to, facts)
        self.state = to

    def activate(self, to: State, digest: str, note: str = "", **facts: Any) -> None:
        """Make the new model the host's active one. The configuration changes nowhere else."""
        assert self.state is State.ACTIVATING
        with writing():
            row = self._lock_row(to)
            self._configure_host(row, digest)
            self._enter(row, to, note, facts)
            row.save()
            append(
                "host.activated",
                self.actor,
                host=self.host,
                switch=row,
                clock=self.clock,
                model=row.to_tag,
                digest=digest,
                previous=row.from_tag,
                previous_digest=row.from_digest,
                fence=self.fence,
            )
            self._append_entry(row, to, facts)
        self.state = to

    def end(self, to: State, **facts: Any) -> None:
        """End the switch; a database trigger refuses every later change to its record."""
        assert to in ENDED
        with writing():
            row = self._lock_row(to)
            self._enter(row, to, facts.pop("note", ""), facts)
            row.save()
            self._mark_host(row)
            self._append_entry(row, to, facts)
        self.state = to

    def _lock_row(self, to: State | None) -> SwitchEvent:
        """Return the row, locked, if it is still ours. `to` is the state that it will enter."""
        if to is not None and not can_move(self.state, to):
            raise AssertionError(f"no move from {self.state} to {to}")
        row = (
            SwitchEvent.objects.select_for_update(of=("self",))
            .filter(pk=self.id, fence=self.fence, state=self.state.value)
            .first()
        )
        if row is None:
            raise FenceLost(f"Another worker has taken over switch {self.id}.")
        return row

    def _enter(self, row: SwitchEvent, to: State, note: str, facts: dict[str, Any]) -> None:
        now, seconds = self.clock.now(), self._seconds_in_phase(row)
        _close_phase(row, seconds, note)
        row.state = to.value
        if to in ENDED:
            row.ended_at = now
        else:
            phase = {"phase": to.value, "at": now.isoformat(), "seconds": None}
            row.phases = [*row.phases, phase]
        _set_facts(row, facts)

    def _seconds_in_phase(self, row: SwitchEvent) -> float:
        """Return how long the current phase has lasted: by the monotonic clock, unless it began in
        a process that died."""
        entered, self._entered = self._entered, self.clock.monotonic()
        if entered is not None:
            return self._entered - entered
        if not row.phases:
            return 0.0
        began = datetime.fromisoformat(row.phases[-1]["at"])
        return max(0.0, (self.clock.now() - began).total_seconds())

    def _configure_host(self, row: SwitchEvent, digest: str) -> None:
        host = Host.objects.select_for_update().get(pk=self.host_id)
        profiles = ModelProfile.objects.filter(pk__in=[row.to_profile_id])
        host.active_profile = profiles.first()  # None if it was deleted meanwhile
        host.active_tag = row.to_tag
        host.active_digest = digest
        host.active_spec = row.to_spec
        host.active_since = self.clock.now()
        host.degraded = ""
        host.save()

    def _mark_host(self, row: SwitchEvent) -> None:
        """Mark the host as degraded, or remove that mark if the model recorded as active was seen
        there."""
        hosts = Host.objects.filter(pk=self.host_id)
        if row.degraded:
            hosts.update(degraded=row.outcome)
            return
        seen = [r["digest"] for r in row.after or ()]
        hosts.filter(active_digest__in=seen).exclude(degraded="").update(degraded="")

    def _append_entry(self, row: SwitchEvent, to: State, facts: dict[str, Any]) -> None:
        append(
            f"switch.{to.value}",
            self.actor,
            host=self.host,
            switch=row,
            clock=self.clock,
            state=to.value,
            fence=self.fence,
            model=row.to_tag,
            digest=row.to_digest,
            **{k: v for k, v in facts.items() if k not in {"plan", "to_digest"}},
        )


def claim(switch_id: int, fence: int, clock: Clock = system) -> ClaimedSwitch | None:
    """Claim an open switch for the holder of `fence`; return None if it has ended."""
    with writing():
        row = (
            SwitchEvent.objects.select_for_update(of=("self",))
            .select_related("host", "origin")
            .filter(pk=switch_id, state__in=OPEN, fence__lt=fence)
            .first()
        )
        if row is None:
            return None
        row.fence = fence
        row.started_at = row.started_at or clock.now()
        row.save(update_fields=["fence", "started_at"])
    return ClaimedSwitch(row, fence, State(row.state), clock)


def snapshot(resident: tuple[Resident, ...]) -> list[dict[str, Any]]:
    """Return a resident set in the form in which the record keeps it."""
    return [r.to_json() for r in resident]


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return what the record keeps of a plan."""
    return {
        "strategy": plan.strategy.value,
        "strategy_reason": plan.strategy_reason,
        "to_digest": plan.digest,
        "plan": plan.to_json(),
    }


def _set_facts(row: SwitchEvent, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if name == "figures":
            row.figures = {**row.figures, **value}
        elif name == "warning":
            row.warnings = [*row.warnings, value]
        else:
            setattr(row, name, value)


def _close_phase(row: SwitchEvent, seconds: float, note: str) -> None:
    if not row.phases or row.phases[-1]["seconds"] is not None:
        return
    last = dict(row.phases[-1])
    last["seconds"] = round(seconds, 3)
    if note:
        last["note"] = note
    row.phases = [*row.phases[:-1], last]
