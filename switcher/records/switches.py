"""Requests for switches, and what people do with switches: cancel one, mark one as seen.

The writes of a running switch are in `claimed_switch`.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import IntegrityError

from switcher.audit.ledger import Actor, append, origin_of, writing
from switcher.domain.clock import Clock, system
from switcher.domain.drift import Kind
from switcher.domain.errors import Conflict, NotFound, SwitchRunning
from switcher.domain.model_names import ModelName
from switcher.domain.specs import Spec
from switcher.domain.states import ENDED, OPEN, State, Strategy
from switcher.models import Drift, FailureSeen, Host, SwitchEvent
from switcher.records import leases

MAX_TRIES = 3


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """A request for a switch whose host, profile and strategy have been looked up and checked."""

    host: Host
    spec: Spec
    profile_id: int | None = None
    strategy: Strategy = Strategy.AUTO
    reason: str = ""
    names_num_ctx: bool = False  # itself; otherwise the context length is the profile's
    names_keep_alive: bool = False  # itself; otherwise the keep-alive is the profile's


def open_switch(
    request: ResolvedRequest,
    actor: Actor,
    *,
    plan_token: str = "",
    idempotency_key: str = "",
    clock: Clock = system,
) -> tuple[SwitchEvent, bool]:
    """Record the request. Return the switch, and whether it is new: the same actor with the same
    idempotency key gets the same switch again.

    Raises SwitchRunning if one is open on the host. A database constraint decides that, not a check
    (rule 1).
    """
    tries = 0
    while True:
        same = _find_by_key(request, actor, idempotency_key)
        if same is not None:
            return same, False
        try:
            with writing():
                return _insert(request, actor, plan_token, idempotency_key, clock), True
        except IntegrityError:
            # Lost race: another request's row came first, by its key or as the open switch. If
            # that switch has ended by now, it is in nobody's way: try again.
            tries += 1
            if _find_by_key(request, actor, idempotency_key) is None:
                check_not_running(request.host.pk)
                if tries == MAX_TRIES:
                    raise


def check_not_running(host_id: int) -> None:
    """Raise SwitchRunning, which names the open switch, if there is one on the host."""
    running = SwitchEvent.objects.filter(host_id=host_id, state__in=OPEN).first()
    if running is not None:
        raise SwitchRunning(
            f"{running.host.name} is already switching to {running.to_tag}, "
            f"started by {running.actor}.",
            running.pk,
        )


def _find_by_key(request: ResolvedRequest, actor: Actor, key: str) -> SwitchEvent | None:
    if not key:
        return None
    row = SwitchEvent.objects.filter(actor=actor.name, idempotency_key=key).first()
    if row is not None and not _is_same_request(row, request):
        raise Conflict(f"This Idempotency-Key was used for switch {row.pk}, which is another one.")
    return row


def _is_same_request(row: SwitchEvent, request: ResolvedRequest) -> bool:
    """Compare what the requests themselves name, as the profile may have been edited in between."""
    spec = request.spec
    name = ModelName.parse(row.to_tag)
    recorded = (row.host_id, name, row.to_profile_id, row.strategy_asked, row.reason)
    requested = (
        request.host.pk,
        spec.name,
        request.profile_id,
        request.strategy.value,
        request.reason,
    )
    same_keep_alive = row.to_spec.get("keep_alive") == spec.keep_alive
    same_num_ctx = (row.to_spec.get("options") or {}).get("num_ctx") == spec.num_ctx
    return (
        recorded == requested
        and (same_keep_alive or not request.names_keep_alive)
        and (same_num_ctx or not request.names_num_ctx)
    )


def _insert(
    request: ResolvedRequest, actor: Actor, plan_token: str, idempotency_key: str, clock: Clock
) -> SwitchEvent:
    # Locked, so that the host is not removed while a switch to it is recorded.
    host = Host.objects.select_for_update().filter(pk=request.host.pk, removed_at=None).first()
    if host is None:
        raise NotFound("There is no such host any more.")
    _check_one_host(host)
    row = SwitchEvent.objects.create(
        host=host,
        actor=actor.name,
        actor_id=actor.user_id,
        source=actor.source,
        origin=origin_of(actor),
        reason=request.reason,
        idempotency_key=idempotency_key,
        from_tag=host.active_tag,
        from_digest=host.active_digest,
        from_spec=host.active_spec,
        to_tag=request.spec.tag,
        to_profile_id=request.profile_id,
        to_spec=request.spec.to_json(),
        strategy_asked=request.strategy.value,
        plan_token=plan_token,
        created_at=clock.now(),
    )
    append(
        "switch.queued",
        actor,
        host=host.name,
        switch=row,
        origin=row.origin,
        clock=clock,
        state=State.QUEUED.value,
        model=request.spec.tag,
        profile=request.spec.profile,
        previous=host.active_tag,
        reason=request.reason,
        simulated=host.simulated,
    )
    return row


def _check_one_host(host: Host) -> None:
    """Refuse a host whose server is another host's too: it has a switch open there perhaps, and
    another model to keep."""
    drift = Drift.objects.filter(host=host, kind=Kind.SAME_SERVER.value, ended_at=None).first()
    if drift is not None:
        raise Conflict(drift.text)


def unclaimed(clock: Clock = system) -> list[tuple[int, int]]:
    """Return the ids of switch and host of each open switch that no living worker holds: it is
    queued, or its process died."""
    leased = leases.in_force(clock).values("host_id")
    rows = SwitchEvent.objects.filter(state__in=OPEN).exclude(host_id__in=leased)
    return list(rows.order_by("id").values_list("id", "host_id"))


def is_open(host_id: int) -> bool:
    """Return whether a switch is open on the host."""
    return SwitchEvent.objects.filter(host_id=host_id, state__in=OPEN).exists()


def host_of(switch_id: int) -> int:
    """Return the host of a switch. Raises NotFound."""
    host_id = SwitchEvent.objects.filter(pk=switch_id).values_list("host_id", flat=True).first()
    if host_id is None:
        raise NotFound(f"There is no switch {switch_id}.")
    return host_id


def request_cancel(switch_id: int, actor: Actor, clock: Clock = system) -> SwitchEvent:
    """Set the cancel flag, which the worker reads between steps and while a call waits (rule 9)."""
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
    """Check that the switch can still be cancelled. Once the new model is active there is nothing
    to cancel, and restoring is not interrupted."""
    state = State(row.state)
    if state in ENDED:
        raise Conflict(f"Switch {row.pk} has already ended.")
    if state is State.RESTORING:
        raise Conflict(f"Switch {row.pk} is already restoring the old model.")
    activated = state is State.UNLOADING and row.strategy == Strategy.OVERLAP.value
    if state is State.ACTIVATING or activated:
        raise Conflict(f"{row.to_tag} is already active. Switch back instead.")


def cancel_requested_by(switch_id: int) -> str:
    """Return who asked to cancel the switch; empty if nobody did."""
    rows = SwitchEvent.objects.filter(pk=switch_id)
    return rows.values_list("cancel_asked_by", flat=True).first() or ""


def mark_seen(switch_id: int, actor: Actor, clock: Clock = system) -> None:
    """Record that somebody looked at a switch that did not succeed, so the board stops pointing
    to it."""
    with writing():
        row = SwitchEvent.objects.filter(pk=switch_id, ended_at__isnull=False).first()
        if row is None:
            raise NotFound(f"There is no ended switch {switch_id}.")
        _, made = FailureSeen.objects.get_or_create(
            switch=row, defaults={"by": actor.name, "at": clock.now()}
        )
        if made:
            append("switch.seen", actor, host=row.host.name, switch=row, clock=clock)
