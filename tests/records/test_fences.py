"""Leases, and the fence without which nothing is written (rule 3)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from switcher.audit import ledger
from switcher.domain.clock import SystemClock
from switcher.domain.errors import FenceLost
from switcher.domain.states import ENDED, OPEN, TRANSITIONS, State
from switcher.models import AuditEntry, Host, Lease, SwitchEvent
from switcher.models.shared_time import MONOTONIC_ZERO
from switcher.records import claimed_switch, leases
from switcher.records.claimed_switch import ClaimedSwitch
from tests.clocks import FakeClock
from tests.records.conftest import at_once, bodies, ended, everything, lead_to, open_one, take

pytestmark = pytest.mark.django_db(transaction=True)


# --- leases ----------------------------------------------------------------------------------


def test_a_lease_is_taken_once_and_runs_out(host: Host, clock: FakeClock) -> None:
    assert leases.take(host.pk, "one", clock) == 1
    assert leases.take(host.pk, "two", clock) is None
    clock.pass_time(leases.LEASE_S - 0.001)
    assert leases.holds(host.pk, 1, clock)
    assert leases.take(host.pk, "two", clock) is None
    clock.pass_time(0.001)
    assert not leases.holds(host.pk, 1, clock)
    assert leases.take(host.pk, "two", clock) == 2


@pytest.mark.parametrize("ahead_s", [-3600, -20, 20, 3600])
def test_a_wall_clock_that_is_set_neither_ends_nor_extends_a_lease(
    host: Host, clock: FakeClock, ahead_s: float
) -> None:
    assert leases.take(host.pk, "one", clock) == 1
    clock.set_wall_clock(ahead_s)
    assert leases.holds(host.pk, 1, clock)
    assert leases.renew(host.pk, 1, clock)
    assert leases.take(host.pk, "two", clock) is None
    clock.pass_time(leases.LEASE_S)
    assert leases.take(host.pk, "two", clock) == 2


@pytest.mark.parametrize(
    "until", [datetime(2026, 11, 23, 9, tzinfo=UTC), MONOTONIC_ZERO + timedelta(hours=200)]
)
def test_a_lease_of_an_earlier_release_or_boot_is_free(
    host: Host, clock: FakeClock, until: datetime
) -> None:
    leases.take(host.pk, "one", clock)
    Lease.objects.update(until=until)
    assert not leases.holds(host.pk, 1, clock)
    assert leases.take(host.pk, "two", clock) == 2


class SkewedClock(SystemClock):
    """The clock of a machine that is 20 s behind the others."""

    def now(self) -> datetime:
        return super().now() - timedelta(seconds=20)


@pytest.mark.both_databases
def test_the_clocks_of_two_machines_need_not_agree(host: Host) -> None:
    behind = SkewedClock()
    assert leases.take(host.pk, "one", behind) == 1
    assert leases.take(host.pk, "two") is None
    assert leases.renew(host.pk, 1, behind)
    assert leases.holds(host.pk, 1)
    leases.give_back(host.pk, 1)
    assert leases.take(host.pk, "two") == 2
    assert leases.take(host.pk, "one", behind) is None


def test_not_even_its_owner_takes_a_lease_twice(host: Host, clock: FakeClock) -> None:
    assert leases.take(host.pk, "one", clock) == 1
    assert leases.take(host.pk, "one", clock) is None


def test_of_two_that_take_it_at_once_one_has_it(host: Host) -> None:
    for round_ in range(1, 4):
        takers = [partial(leases.take, host.pk, f"worker-{n}") for n in range(6)]
        got = at_once(*takers)
        assert [f for f in got if f is not None] == [round_], got
        leases.give_back(host.pk, round_)


def test_a_host_without_a_lease_row_gets_one(host: Host, clock: FakeClock) -> None:
    Lease.objects.all().delete()
    assert leases.take(host.pk, "one", clock) == 1


def test_renewing_holds_it_for_as_long_again(host: Host, clock: FakeClock) -> None:
    leases.take(host.pk, "one", clock)
    for _ in range(10):
        clock.pass_time(leases.LEASE_S - 1)
        assert leases.renew(host.pk, 1, clock)
    assert leases.holds(host.pk, 1, clock)


def test_a_lease_that_ran_out_is_not_revived_even_if_nobody_took_it(
    host: Host, clock: FakeClock
) -> None:
    leases.take(host.pk, "one", clock)
    clock.pass_time(leases.LEASE_S)
    assert not leases.renew(host.pk, 1, clock)
    assert not leases.holds(host.pk, 1, clock)


def test_a_lease_in_other_hands_is_neither_renewed_nor_given_back(
    host: Host, clock: FakeClock
) -> None:
    leases.take(host.pk, "one", clock)
    clock.pass_time(leases.LEASE_S)
    leases.take(host.pk, "two", clock)
    assert not leases.renew(host.pk, 1, clock)
    leases.give_back(host.pk, 1)
    assert leases.holds(host.pk, 2, clock)
    assert not leases.holds(host.pk, 1, clock)


def test_a_lease_that_was_given_back_is_free_at_once_and_never_renewed(
    host: Host, clock: FakeClock
) -> None:
    leases.take(host.pk, "one", clock)
    leases.give_back(host.pk, 1)
    assert not leases.renew(host.pk, 1, clock)
    assert not leases.holds(host.pk, 1, clock)
    assert leases.take(host.pk, "two", clock) == 2


def test_a_fence_only_grows(host: Host, clock: FakeClock) -> None:
    fences = []
    for n in range(5):
        fence = leases.take(host.pk, f"worker-{n}", clock)
        assert fence is not None
        fences.append(fence)
        leases.give_back(host.pk, fence) if n % 2 else clock.pass_time(leases.LEASE_S)
    assert fences == sorted(set(fences))


# --- fences ----------------------------------------------------------------------------------


def stale(host: Host, clock: FakeClock, state: State) -> tuple[ClaimedSwitch, ClaimedSwitch]:
    """A worker whose lease ran out in `state`, and the one who took over."""
    row = open_one(host, clock)
    old = lead_to(take(row, clock, "one"), state)
    clock.pass_time(leases.LEASE_S)
    return old, take(row, clock, "two")


WRITES: dict[str, Callable[[ClaimedSwitch], None]] = {
    "note": lambda held: held.note(warning="late"),
    "move": lambda held: held.move(sorted(TRANSITIONS[held.state] - ENDED)[0], figures={"a": 1}),
    "end": lambda held: held.end(sorted(TRANSITIONS[held.state] & ENDED)[0], outcome="late"),
    "activate": lambda held: held.activate(State.ACTIVE, "sha-late"),
    "activate in overlap": lambda held: held.activate(State.UNLOADING, "sha-late"),
}
POSSIBLE = [
    (state, name)
    for state in sorted(OPEN)
    for name in WRITES
    if (name != "move" or TRANSITIONS[state] - ENDED)
    and (name != "end" or TRANSITIONS[state] & ENDED)
    and (not name.startswith("activate") or state is State.ACTIVATING)
]


@pytest.mark.parametrize(("state", "write"), POSSIBLE)
def test_a_worker_that_lost_its_host_changes_nothing(
    host: Host, clock: FakeClock, state: State, write: str
) -> None:
    old, _ = stale(host, clock, state)
    before = everything(old.id)
    with pytest.raises(FenceLost):
        WRITES[write](old)
    assert everything(old.id) == before
    assert old.state is state, "nor does it believe that it moved"


@pytest.mark.parametrize(("state", "write"), POSSIBLE)
def test_the_worker_that_took_over_writes(
    host: Host, clock: FakeClock, state: State, write: str
) -> None:
    _, new = stale(host, clock, state)
    assert new.state is state
    WRITES[write](new)
    assert SwitchEvent.objects.get(pk=new.id).state == new.state


@pytest.mark.parametrize(("state", "write"), POSSIBLE)
def test_a_worker_whose_switch_was_moved_on_by_its_own_fence_changes_nothing(
    host: Host, clock: FakeClock, state: State, write: str
) -> None:
    """Two copies of one hand: the state that it left is part of the condition."""
    held = lead_to(take(open_one(host, clock), clock), state)
    other = ClaimedSwitch(held.row, held.fence, held.state, clock)
    next_ = sorted(TRANSITIONS[state] - ENDED) or [State.FAILED]
    held.end(State.FAILED) if next_[0] in ENDED else held.move(next_[0])
    before = everything(held.id)
    with pytest.raises(FenceLost):
        WRITES[write](other)
    assert everything(held.id) == before


def test_a_late_worker_cannot_take_up_what_a_newer_one_holds(host: Host, clock: FakeClock) -> None:
    row = open_one(host, clock)
    late = leases.take(host.pk, "one", clock)
    assert late is not None
    clock.pass_time(leases.LEASE_S)
    take(row, clock, "two")
    assert claimed_switch.claim(row.pk, late, clock) is None


def test_an_ended_switch_is_held_by_nobody(host: Host, clock: FakeClock) -> None:
    row = ended(host, clock)
    assert claimed_switch.claim(row.pk, 99, clock) is None


def test_a_switch_starts_once(host: Host, clock: FakeClock) -> None:
    began = clock.now()
    old, new = stale(host, clock, State.LOADING)
    assert (old.fence, new.fence) == (1, 2)
    assert SwitchEvent.objects.get().started_at == began


@pytest.mark.parametrize("state", sorted(State))
@pytest.mark.parametrize("right", sorted(State))
def test_no_move_that_the_table_does_not_know_is_written(
    host: Host, clock: FakeClock, state: State, right: State
) -> None:
    if state in ENDED or right in TRANSITIONS[state] or right in ENDED:
        return
    held = lead_to(take(open_one(host, clock), clock), state)
    before = everything(held.id)
    with pytest.raises(AssertionError):
        held.move(right)
    assert everything(held.id) == before


# --- a change and its entry are one -----------------------------------------------------------


@pytest.mark.parametrize(("state", "write"), POSSIBLE)
def test_a_change_whose_entry_cannot_be_written_did_not_happen(
    host: Host, clock: FakeClock, state: State, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if write == "note":
        return  # facts on the way to a transition, which carries the entry
    held = lead_to(take(open_one(host, clock), clock), state)
    before = everything(held.id)

    def fail(*args: object, **facts: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(claimed_switch, "append", fail)
    with pytest.raises(OSError, match="disk is full"):
        WRITES[write](held)
    assert everything(held.id) == before
    assert held.state is state


@pytest.mark.parametrize(("state", "write"), POSSIBLE)
def test_every_transition_leaves_its_entry(
    host: Host, clock: FakeClock, state: State, write: str
) -> None:
    held = lead_to(take(open_one(host, clock), clock), state)
    count = AuditEntry.objects.count()
    WRITES[write](held)
    new = list(AuditEntry.objects.order_by("pk")[count:].values_list("kind", flat=True))
    if write == "note":
        assert new == []
    elif write.startswith("activate"):
        assert new == ["host.activated", f"switch.{held.state}"]
    else:
        assert new == [f"switch.{held.state}"]
    if new:
        body = bodies(switch_id=held.id)[-1]
        assert (body["fence"], body["state"]) == (held.fence, held.state)


def test_an_activation_is_one_transaction_with_all_that_it_changes(
    host: Host, clock: FakeClock
) -> None:
    held = lead_to(take(open_one(host, clock), clock), State.ACTIVATING)
    Host.objects.update(degraded="It was.")
    held.activate(State.ACTIVE, "sha-a", outcome="mid-a is active.", after=[])
    host.refresh_from_db()
    assert (host.active_tag, host.active_digest, host.degraded) == ("mid-a", "sha-a", "")
    assert host.active_since == clock.now()
    row = SwitchEvent.objects.get()
    assert (row.state, row.ended_at) == ("active", clock.now())


def test_a_profile_deleted_meanwhile_does_not_stop_an_activation(
    host: Host, clock: FakeClock
) -> None:
    held = lead_to(take(open_one(host, clock, profile_id=4711), clock), State.ACTIVATING)
    held.activate(State.ACTIVE, "sha-a")
    host.refresh_from_db()
    assert (host.active_profile_id, host.active_tag) == (None, "mid-a")


def test_phases_have_their_seconds_and_the_last_one_stays_open(
    host: Host, clock: FakeClock
) -> None:
    held = take(open_one(host, clock), clock)
    held.move(State.CHECKING)
    clock.pass_time(1.5)
    held.move(State.LOADING, note="two requests run on")
    row = SwitchEvent.objects.get()
    took = [(p["phase"], p["seconds"]) for p in row.phases]
    assert took == [("checking", 1.5), ("loading", None)]
    assert row.phases[0]["note"] == "two requests run on"


def test_figures_and_warnings_add_up(host: Host, clock: FakeClock) -> None:
    held = take(open_one(host, clock), clock)
    held.note(figures={"load_s": 1.5}, warning="one")
    held.note(figures={"size": 5}, warning="two")
    row = SwitchEvent.objects.get()
    assert (row.figures, row.warnings) == ({"load_s": 1.5, "size": 5}, ["one", "two"])


# --- degraded --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "stays"),
    [([{"digest": "sha-a"}], False), ([{"digest": "sha-b"}], True), ([], True), (None, True)],
)
@pytest.mark.parametrize("to", [State.ROLLED_BACK, State.CANCELLED])
def test_a_host_is_degraded_until_its_active_model_was_seen_there_again(
    host: Host, clock: FakeClock, after: object, stays: bool, to: State
) -> None:
    Host.objects.update(active_digest="sha-a", degraded="mid-a did not come back.")
    held = lead_to(take(open_one(host, clock), clock), State.RESTORING)
    held.end(to, after=after)
    host.refresh_from_db()
    assert bool(host.degraded) is stays


def test_a_switch_that_ends_degraded_marks_its_host(host: Host, clock: FakeClock) -> None:
    held = lead_to(take(open_one(host, clock), clock), State.RESTORING)
    held.end(State.FAILED, degraded=True, outcome="north-1 holds no model.")
    host.refresh_from_db()
    assert host.degraded == "north-1 holds no model."


# --- entries ---------------------------------------------------------------------------------


def test_an_entry_is_never_written_outside_a_transaction(db: None) -> None:
    with pytest.raises(AssertionError, match="in the transaction of its change"):
        ledger.append("test", ledger.SERVER)


def test_who_hears_of_a_commit_cannot_undo_it(host: Host, clock: FakeClock) -> None:
    def stumble(**_: object) -> None:
        raise RuntimeError("a listener's own fault")

    ledger.changed.connect(stumble)
    try:
        held = take(open_one(host, clock), clock)
        held.move(State.CHECKING)
    finally:
        ledger.changed.disconnect(stumble)
    assert held.state is State.CHECKING
    assert SwitchEvent.objects.get().state == "checking"


def test_nobody_hears_of_what_was_not_committed(host: Host, clock: FakeClock) -> None:
    heard: list[object] = []

    def listen(sender: object, **_: object) -> None:
        heard.append(sender)

    ledger.changed.connect(listen)
    try:
        with pytest.raises(RuntimeError), ledger.writing():
            ledger.append("test", ledger.SERVER)
            raise RuntimeError
        assert heard == []
        open_one(host, clock)
        assert heard == ["switch.queued"]
    finally:
        ledger.changed.disconnect(listen)
