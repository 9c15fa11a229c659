"""Every write to a switch: opening it, each of its moves, its end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError

from switcher.audit.ledger import Actor, append, origin_of, writing
from switcher.domain.clock import Clock, system
from switcher.domain.errors import Conflict, FenceLost, NotFound, SwitchRunning
from switcher.domain.observed import Resident
from switcher.domain.plans import Plan
from switcher.domain.specs import Spec
from switcher.domain.states import ENDED, OPEN, State, Strategy, can_move
from switcher.models import FailureSeen, Host, Lease, ModelProfile, SwitchEvent


@dataclass(frozen=True, slots=True)
class NewSwitch:
    """What is asked for: already parsed and checked by the service."""

    host_id: int
    spec: Spec
    profile_id: int | None
    strategy: Strategy
    actor: Actor
    reason: str = ""
    plan_token: str = ""
    idempotency_key: str = ""
    keep_alive_named: bool = False  # in the request itself, not only in a profile


def open_switch(new: NewSwitch, clock: Clock = system) -> tuple[SwitchEvent, bool]:
    """Record the request. Returns the switch and whether it is new: the same actor with the same
    idempotency key gets the same switch again.

    Raises SwitchRunning where one is open on the host: the constraint decides, not a check.
    """
    tries = 3
    while True:
        same = _same_key(new)
        if same is not None:
            return same, False
        try:
            with writing():
                return _insert(new, clock), True
        except IntegrityError:
            # Lost race: another request's row came first, by its key or as the open switch. One
            # that has ended meanwhile is in nobody's way: ask again.
            tries -= 1
            if _same_key(new) is None:
                check_not_running(new.host_id)
                if not tries:
                    raise


def check_not_running(host_id: int) -> None:
    """Raises SwitchRunning, which names the switch, where one is open on the host."""
    running = SwitchEvent.objects.filter(host_id=host_id, state__in=OPEN).first()
    if running is not None:
        raise SwitchRunning(
            f"{running.host.name} is already switching to {running.to_tag}, "
            f"started by {running.actor}.",
            running.pk,
        )


def _same_key(new: NewSwitch) -> SwitchEvent | None:
    if not new.idempotency_key:
        return None
    row = SwitchEvent.objects.filter(
        actor=new.actor.name, idempotency_key=new.idempotency_key
    ).first()
    if row is not None and not _asks_the_same(row, new):
        raise Conflict(f"This Idempotency-Key was used for switch {row.pk}, which is another one.")
    return row


def _asks_the_same(row: SwitchEvent, new: NewSwitch) -> bool:
    """By what a request itself names. What its profile says may have been edited since: a request
    that is sent again is still the same."""
    asked = (row.host_id, row.to_tag, row.to_profile_id, row.strategy_asked, row.reason)
    wanted = (new.host_id, new.spec.tag, new.profile_id, new.strategy.value, new.reason)
    same_keep_alive = row.to_spec.get("keep_alive") == new.spec.keep_alive
    return asked == wanted and (same_keep_alive or not new.keep_alive_named)


def _insert(new: NewSwitch, clock: Clock) -> SwitchEvent:
    # Locked: a host is not removed while a switch to it is being written down.
    host = Host.objects.select_for_update().filter(pk=new.host_id, removed_at=None).first()
    if host is None:
        raise NotFound("There is no such host any more.")
    row = SwitchEvent.objects.create(
        host=host,
        actor=new.actor.name,
        actor_id=new.actor.user_id,
        source=new.actor.source,
        origin=origin_of(new.actor),
        reason=new.reason,
        idempotency_key=new.idempotency_key,
        from_tag=host.active_tag,
        from_digest=host.active_digest,
        from_spec=host.active_spec,
        to_tag=new.spec.tag,
        to_profile_id=new.profile_id,
        to_spec=new.spec.to_json(),
        strategy_asked=new.strategy.value,
        plan_token=new.plan_token,
        created_at=clock.now(),
    )
    append(
        "switch.queued",
        new.actor,
        host=host.name,
        switch=row,
        origin=row.origin,
        clock=clock,
        state=State.QUEUED.value,
        model=new.spec.tag,
        profile=new.spec.profile,
        previous=host.active_tag,
        reason=new.reason,
        simulated=host.simulated,
    )
    return row


@dataclass(slots=True)
class ClaimedSwitch:
    """A switch in the hands of the worker that holds its host's lease.

    Every write says: only if the fence is mine and the state is the one I left (rule 3).
    """

    switch_id: int
    host_id: int
    host: str
    fence: int
    state: State
    actor: Actor
    clock: Clock = system

    def move(self, to: State, note: str = "", **facts: Any) -> None:
        """Go to `to`, closing the phase that ends with it. FenceLost: touch nothing more."""
        with writing():
            row = self._take_over_row(to)
            _close_phase(row, self.clock, note)
            _open_phase(row, to, self.clock)
            row.state = to.value
            _apply(row, facts)
            row.save()
            self._entry(row, to, facts)
        self.state = to

    def note(self, **facts: Any) -> None:
        """Write facts down without moving: figures, warnings, the phase's note."""
        with writing():
            row = self._take_over_row(None)
            _apply(row, facts)
            row.save()

    def activate(self, to: State, digest: str, note: str = "", **facts: Any) -> None:
        """The one place where the configuration changes: in one transaction with its entry."""
        assert self.state is State.ACTIVATING
        with writing():
            row = self._take_over_row(to)
            host = Host.objects.select_for_update().get(pk=self.host_id)
            host.active_profile_id = _profile_still_there(row.to_profile_id)
            host.active_tag = row.to_tag
            host.active_digest = digest
            host.active_spec = row.to_spec
            host.active_since = self.clock.now()
            host.degraded = ""
            host.save()
            _close_phase(row, self.clock, note)
            _open_phase(row, to, self.clock)
            row.state = to.value
            _apply(row, facts)
            if to in ENDED:
                _seal(row, self.clock)
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
            self._entry(row, to, facts)
        self.state = to

    def end(self, to: State, **facts: Any) -> None:
        """End it, in one of the four ways; the record is sealed from here on."""
        assert to in ENDED
        with writing():
            row = self._take_over_row(to)
            _close_phase(row, self.clock, facts.pop("note", ""))
            row.state = to.value
            _apply(row, facts)
            _seal(row, self.clock)
            row.save()
            self._mark_host(row)
            self._entry(row, to, facts)
        self.state = to

    def _mark_host(self, row: SwitchEvent) -> None:
        """Degraded until what is recorded as active was seen there again."""
        hosts = Host.objects.filter(pk=self.host_id)
        if row.degraded:
            hosts.update(degraded=row.outcome)
            return
        seen = [r["digest"] for r in row.after or ()]
        hosts.filter(active_digest__in=seen).exclude(degraded="").update(degraded="")

    def _take_over_row(self, to: State | None) -> SwitchEvent:
        """The row, locked, if it is still ours; else FenceLost."""
        if to is not None and not can_move(self.state, to):
            raise AssertionError(f"no move from {self.state} to {to}")
        row = (
            SwitchEvent.objects.select_for_update(of=("self",))
            .filter(pk=self.switch_id, fence=self.fence, state=self.state.value)
            .first()
        )
        if row is None:
            raise FenceLost(f"Switch {self.switch_id} is in other hands.")
        return row

    def _entry(self, row: SwitchEvent, to: State, facts: dict[str, Any]) -> None:
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
    """Take an open switch into the hands of the holder of `fence`; None if it has ended."""
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
        if row.started_at is None:
            row.started_at = clock.now()
        row.save(update_fields=["fence", "started_at"])
    actor = Actor(row.actor, row.source, row.actor_id)
    return ClaimedSwitch(row.pk, row.host_id, row.host.name, fence, State(row.state), actor, clock)


def waiting(clock: Clock = system) -> list[tuple[int, int]]:
    """(switch, host) of open switches that no living worker holds: queued, or left behind."""
    now = clock.now()
    held = Lease.objects.filter(until__gt=now).exclude(owner="").values("host_id")
    rows = SwitchEvent.objects.filter(state__in=OPEN).exclude(host_id__in=held)
    return list(rows.order_by("id").values_list("id", "host_id"))


def is_open(host_id: int) -> bool:
    """Whether a switch is open on the host."""
    return SwitchEvent.objects.filter(host_id=host_id, state__in=OPEN).exists()


def host_of(switch_id: int) -> int:
    """The host of a switch. Raises NotFound."""
    host_id = SwitchEvent.objects.filter(pk=switch_id).values_list("host_id", flat=True).first()
    if host_id is None:
        raise NotFound(f"There is no switch {switch_id}.")
    return host_id


def ask_cancel(switch_id: int, actor: Actor, clock: Clock = system) -> SwitchEvent:
    """Raise the flag that the worker looks at between steps and while it waits (rule 9)."""
    with writing():
        row = SwitchEvent.objects.select_for_update(of=("self",)).filter(pk=switch_id).first()
        if row is None:
            raise NotFound(f"There is no switch {switch_id}.")
        _check_cancellable(row)
        if row.cancel_asked_at is None:
            row.cancel_asked_at = clock.now()
            row.cancel_asked_by = actor.name
            row.save(update_fields=["cancel_asked_at", "cancel_asked_by"])
            append("switch.cancel-asked", actor, host=row.host.name, switch=row, clock=clock)
    return row


def _check_cancellable(row: SwitchEvent) -> None:
    """Once the new model is active there is nothing to cancel, and a restore is not stopped."""
    state = State(row.state)
    if state in ENDED:
        raise Conflict(f"Switch {row.pk} has ended already.")
    if state is State.RESTORING:
        raise Conflict(f"Switch {row.pk} is restoring the old model already.")
    activated = state is State.UNLOADING and row.strategy == Strategy.OVERLAP.value
    if state is State.ACTIVATING or activated:
        raise Conflict(f"{row.to_tag} is active already. Switch back instead.")


def cancel_asked(switch_id: int) -> str:
    """By whom the switch is to be cancelled; empty if by nobody."""
    return (
        SwitchEvent.objects.filter(pk=switch_id).values_list("cancel_asked_by", flat=True).first()
        or ""
    )


def mark_seen(switch_id: int, actor: Actor, clock: Clock = system) -> None:
    """Somebody looked at a switch that did not succeed: the board stops pointing to it."""
    with writing():
        row = SwitchEvent.objects.filter(pk=switch_id, ended_at__isnull=False).first()
        if row is None:
            raise NotFound(f"There is no ended switch {switch_id}.")
        _, made = FailureSeen.objects.get_or_create(
            switch=row, defaults={"by": actor.name, "at": clock.now()}
        )
        if made:
            append("switch.seen", actor, host=row.host.name, switch=row, clock=clock)


def snapshot(resident: tuple[Resident, ...]) -> list[dict[str, Any]]:
    """A resident set as the record keeps it."""
    return [r.to_json() for r in resident]


def plan_facts(plan: Plan) -> dict[str, Any]:
    """What of a plan goes into the record once it is decided on."""
    return {
        "strategy": plan.strategy.value,
        "strategy_reason": plan.strategy_reason,
        "to_digest": plan.digest,
        "plan": plan.to_json(),
    }


def _profile_still_there(profile_id: int | None) -> int | None:
    if profile_id is None or not ModelProfile.objects.filter(pk=profile_id).exists():
        return None
    return profile_id


def _apply(row: SwitchEvent, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if name == "figures":
            row.figures = {**row.figures, **value}
        elif name == "warning":
            row.warnings = [*row.warnings, value]
        else:
            setattr(row, name, value)


def _open_phase(row: SwitchEvent, to: State, clock: Clock) -> None:
    if to in ENDED:
        return
    row.phases = [*row.phases, {"phase": to.value, "at": clock.now().isoformat(), "seconds": None}]


def _close_phase(row: SwitchEvent, clock: Clock, note: str) -> None:
    if not row.phases or row.phases[-1]["seconds"] is not None:
        return
    last = dict(row.phases[-1])
    began = datetime.fromisoformat(last["at"])
    last["seconds"] = max(0.0, round((clock.now() - began) / timedelta(seconds=1), 3))
    if note:
        last["note"] = note
    row.phases = [*row.phases[:-1], last]


def _seal(row: SwitchEvent, clock: Clock) -> None:
    row.ended_at = clock.now()
