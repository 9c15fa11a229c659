from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from django.db import connections

from switcher.audit.ledger import Actor
from switcher.domain.clock import Clock, system
from switcher.domain.specs import Spec
from switcher.domain.states import State
from switcher.models import AuditEntry, Host, LedgerRow, ModelProfile, SwitchEvent
from switcher.records import claimed_switch, config, leases, switches
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.switches import ResolvedRequest
from tests.clocks import FakeClock
from tests.until import PATIENCE_S

T = TypeVar("T")

ANNA = Actor("anna", "page", user_id=7, ip="192.0.2.1", agent="Browser")
BEN = Actor("ben", "api")

# The moves that lead from the first state to each of the others.
WAYS: dict[State, tuple[State, ...]] = {
    State.QUEUED: (),
    State.CHECKING: (State.CHECKING,),
    State.DRAINING: (State.CHECKING, State.DRAINING),
    State.UNLOADING: (State.CHECKING, State.DRAINING, State.UNLOADING),
    State.LOADING: (State.CHECKING, State.LOADING),
    State.WARMING: (State.CHECKING, State.LOADING, State.WARMING),
    State.VERIFYING: (State.CHECKING, State.LOADING, State.WARMING, State.VERIFYING),
    State.ACTIVATING: (
        State.CHECKING,
        State.LOADING,
        State.WARMING,
        State.VERIFYING,
        State.ACTIVATING,
    ),
    State.RESTORING: (State.CHECKING, State.LOADING, State.RESTORING),
}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def host(db: None) -> Host:
    return config.save_host(Host(name="north-1", base_url="http://127.0.0.1:9"), ANNA)


@pytest.fixture
def profile(db: None) -> ModelProfile:
    return config.save_profile(ModelProfile(name="mid-a", tag="mid-a"), ANNA)


def open_switch(
    host: Host,
    clock: Clock = system,
    tag: str = "mid-a",
    actor: Actor = ANNA,
    key: str = "",
    **values: Any,
) -> tuple[SwitchEvent, bool]:
    request = ResolvedRequest(host, Spec("", tag), **values)
    return switches.open_switch(request, actor, idempotency_key=key, clock=clock)


def open_one(host: Host, clock: FakeClock, tag: str = "mid-a", **values: Any) -> SwitchEvent:
    return open_switch(host, clock, tag, **values)[0]


def take(row: SwitchEvent, clock: FakeClock, owner: str = "worker-1") -> ClaimedSwitch:
    fence = leases.take(row.host_id, owner, clock)
    assert fence is not None
    held = claimed_switch.claim(row.pk, fence, clock)
    assert held is not None
    return held


def lead_to(held: ClaimedSwitch, state: State) -> ClaimedSwitch:
    for move in WAYS[state]:
        held.move(move)
    return held


def ended(host: Host, clock: FakeClock, to: State = State.FAILED, **values: Any) -> SwitchEvent:
    """A switch that has ended, in any of the four ways, and is sealed."""
    held = take(open_one(host, clock, **values), clock)
    if to is State.ROLLED_BACK:
        lead_to(held, State.RESTORING)
    else:
        held.move(State.CHECKING)
    held.end(to, outcome="It is over.")
    leases.give_back(host.pk, held.fence)
    return SwitchEvent.objects.get(pk=held.id)


def everything(row_id: int) -> tuple[Any, ...]:
    """All that is recorded of a switch, to see that nothing changed."""
    return (
        SwitchEvent.objects.filter(pk=row_id).values().get(),
        list(Host.objects.values().order_by("pk")),
        list(LedgerRow.objects.values().order_by("pk")),
    )


def bodies(**which: Any) -> list[dict[str, Any]]:
    """What entries say, with their facts beside what every entry has."""
    rows = AuditEntry.objects.filter(**which).order_by("pk")
    told = [json.loads(row.body) for row in rows]
    return [body | body["facts"] for body in told]


def at_once(*acts: Callable[[], T]) -> list[T | Exception]:
    """Run them in threads that begin together; what each gave or raised, in order."""
    results: list[T | Exception | None] = [None] * len(acts)
    gate = threading.Barrier(len(acts))

    def run(n: int) -> None:
        try:
            gate.wait(PATIENCE_S)
            results[n] = acts[n]()
        except Exception as exc:
            results[n] = exc
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    return results  # type: ignore[return-value]
