"""One open switch for a host, whoever asks and however many at once (rule 1)."""

from __future__ import annotations

import json
from functools import partial

import pytest
from django.db import IntegrityError

from switcher.audit.ledger import Actor, hidden
from switcher.domain.errors import Conflict, NotFound, SwitchRunning
from switcher.domain.states import OPEN, State
from switcher.models import AuditEntry, Host, SwitchEvent
from switcher.records import config, leases, switches
from tests.clocks import FakeClock
from tests.records.conftest import (
    ANNA,
    BEN,
    WAYS,
    at_once,
    bodies,
    ended,
    lead_to,
    open_one,
    open_switch,
    take,
)

pytestmark = pytest.mark.django_db(transaction=True)


def test_of_many_that_ask_at_once_one_gets_its_switch_and_the_others_its_number(
    host: Host,
) -> None:
    users = [Actor(f"user-{n}", "api") for n in range(8)]
    results = at_once(*(partial(open_switch, host, actor=user) for user in users))
    row = SwitchEvent.objects.get()
    won = [r for r in results if not isinstance(r, Exception)]
    lost = [r for r in results if isinstance(r, Exception)]
    assert won == [(row, True)]
    assert len(lost) == 7
    for error in lost:
        assert isinstance(error, SwitchRunning), repr(error)
        assert error.switch_id == row.pk
        assert f"already switching to {row.to_tag}, started by {row.actor}" in error.text
    assert AuditEntry.objects.filter(kind="switch.queued").count() == 1


def test_of_many_with_one_key_all_get_the_same_switch(host: Host) -> None:
    results = at_once(*(partial(open_switch, host, key="k-1") for _ in range(8)))
    row = SwitchEvent.objects.get()
    assert [r[0] for r in results if not isinstance(r, Exception)] == [row] * 8
    assert sorted(r[1] for r in results if not isinstance(r, Exception)) == [False] * 7 + [True]


def test_hosts_switch_beside_each_other(host: Host) -> None:
    other = config.save_host(Host(name="south-1", base_url="http://127.0.0.1:8"), ANNA)
    results = at_once(partial(open_switch, host), partial(open_switch, other))
    assert [r[1] for r in results if not isinstance(r, Exception)] == [True, True]


@pytest.mark.parametrize("state", sorted(OPEN))
def test_in_every_open_state_a_second_switch_is_refused(
    host: Host, clock: FakeClock, state: State
) -> None:
    row = open_one(host, clock)
    lead_to(take(row, clock), state)
    with pytest.raises(SwitchRunning) as caught:
        open_one(host, clock, "mid-b", actor=BEN)
    assert caught.value.switch_id == row.pk


@pytest.mark.parametrize("state", sorted(set(State) - OPEN - {State.ACTIVE}))
def test_after_every_end_the_next_one_may_begin(host: Host, clock: FakeClock, state: State) -> None:
    ended(host, clock, state)
    assert open_one(host, clock, "mid-b").state == State.QUEUED


def test_two_open_rows_are_refused_by_the_database_itself(host: Host, clock: FakeClock) -> None:
    row = open_one(host, clock)
    row.pk = None
    row._state.adding = True
    with pytest.raises(IntegrityError):
        row.save()


def test_the_same_key_gives_the_same_switch_also_after_it_has_ended(
    host: Host, clock: FakeClock
) -> None:
    row = ended(host, clock, key="k-1")
    again, made = open_switch(host, clock, key="k-1")
    assert (again.pk, made) == (row.pk, False)
    assert SwitchEvent.objects.count() == 1


def test_a_key_belongs_to_who_used_it(host: Host, clock: FakeClock) -> None:
    row = ended(host, clock, key="k-1")
    other, made = open_switch(host, clock, actor=BEN, key="k-1")
    assert made
    assert other.pk != row.pk


def test_a_key_for_another_wish_is_a_mistake_and_said_so(host: Host, clock: FakeClock) -> None:
    row = ended(host, clock, key="k-1")
    with pytest.raises(Conflict, match=f"used for switch {row.pk}"):
        open_one(host, clock, "mid-b", key="k-1")


def test_without_a_key_every_wish_is_a_new_one(host: Host, clock: FakeClock) -> None:
    first = ended(host, clock)
    assert open_one(host, clock).pk != first.pk


def test_who_loses_against_a_switch_that_has_just_ended_asks_again(
    host: Host, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, calls = switches._insert, []

    def lose_once(*args: object) -> SwitchEvent:
        calls.append(1)
        if len(calls) == 1:
            raise IntegrityError("one_open_switch_a_host")
        return insert(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(switches, "_insert", lose_once)
    assert open_switch(host, clock)[1]


def test_what_no_retry_helps_is_raised(
    host: Host, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*args: object) -> SwitchEvent:
        raise IntegrityError("something else")

    monkeypatch.setattr(switches, "_insert", lose)
    with pytest.raises(IntegrityError, match="something else"):
        open_switch(host, clock)


def test_a_removed_host_takes_no_switch(host: Host, clock: FakeClock) -> None:
    config.remove_host(host.pk, ANNA)
    with pytest.raises(NotFound, match="no such host any more"):
        open_one(host, clock)
    assert not SwitchEvent.objects.exists()


def test_removing_and_switching_at_once_never_leave_a_switch_on_a_removed_host(
    host: Host,
) -> None:
    at_once(
        partial(config.remove_host, host.pk, ANNA),  # type: ignore[arg-type]
        partial(open_switch, host),  # type: ignore[arg-type]
    )
    host.refresh_from_db()
    assert (host.removed_at is None) == SwitchEvent.objects.exists()


def test_the_request_is_recorded_with_who_from_where_and_why(host: Host, clock: FakeClock) -> None:
    row = open_one(host, clock, reason="because")
    assert (row.actor, row.actor_id, row.source, row.reason) == ("anna", 7, "page", "because")
    assert row.origin is not None
    assert (row.origin.ip, row.origin.agent) == ("192.0.2.1", "Browser")
    entry = AuditEntry.objects.get(switch=row)
    assert json.loads(entry.body) == {
        "actor": "anna",
        "at": "2026-11-23T09:00:00.000000Z",
        "facts": {
            "model": "mid-a",
            "previous": "",
            "profile": "",
            "simulated": False,
            "state": "queued",
        },
        "from": hidden(row.origin),
        "host": "north-1",
        "kind": "switch.queued",
        "reason": "because",
        "seq": entry.seq,
        "source": "page",
        "switch": row.pk,
        "v": 2,
    }
    assert entry.origin == row.origin


# --- waiting, cancelling, looking -----------------------------------------------------------


@pytest.mark.parametrize("state", sorted(OPEN))
def test_what_is_open_waits_until_somebody_holds_its_host(
    host: Host, clock: FakeClock, state: State
) -> None:
    row = open_one(host, clock)
    assert switches.unclaimed(clock) == [(row.pk, host.pk)]
    lead_to(take(row, clock), state)
    assert switches.unclaimed(clock) == []
    clock.pass_time(leases.LEASE_S)
    assert switches.unclaimed(clock) == [(row.pk, host.pk)], "left behind by a dead worker"


def test_what_has_ended_waits_for_nobody(host: Host, clock: FakeClock) -> None:
    ended(host, clock)
    clock.pass_time(60)
    assert switches.unclaimed(clock) == []


CANCELLABLE = sorted(OPEN - {State.RESTORING, State.ACTIVATING})


@pytest.mark.parametrize("state", CANCELLABLE)
def test_a_cancel_is_a_flag_with_who_and_when_and_its_entry(
    host: Host, clock: FakeClock, state: State
) -> None:
    row = open_one(host, clock)
    lead_to(take(row, clock), state)
    switches.request_cancel(row.pk, BEN, clock)
    row.refresh_from_db()
    assert (row.cancel_asked_by, row.cancel_asked_at) == ("ben", clock.now())
    assert row.state == state, "the worker ends it, not who asks"
    assert switches.cancel_requested_by(row.pk) == "ben"
    assert bodies(kind="switch.cancel-asked")[0]["actor"] == "ben"


def test_the_first_who_cancels_is_the_one_who_did(host: Host, clock: FakeClock) -> None:
    row = open_one(host, clock)
    switches.request_cancel(row.pk, BEN, clock)
    switches.request_cancel(row.pk, ANNA, clock)
    assert switches.cancel_requested_by(row.pk) == "ben"
    assert AuditEntry.objects.filter(kind="switch.cancel-asked").count() == 1


@pytest.mark.parametrize(
    ("state", "text"), [(State.RESTORING, "restoring"), (State.ACTIVATING, "already active")]
)
def test_what_cannot_be_cancelled_any_more_says_why(
    host: Host, clock: FakeClock, state: State, text: str
) -> None:
    row = open_one(host, clock)
    lead_to(take(row, clock), state)
    with pytest.raises(Conflict, match=text):
        switches.request_cancel(row.pk, BEN, clock)
    assert not AuditEntry.objects.filter(kind="switch.cancel-asked").exists()


def test_the_last_unload_of_an_overlap_is_not_cancelled(host: Host, clock: FakeClock) -> None:
    held = take(open_one(host, clock), clock)
    for state in WAYS[State.ACTIVATING]:
        held.move(state)
    held.note(strategy="overlap")
    held.activate(State.UNLOADING, "sha-a")
    with pytest.raises(Conflict, match="mid-a is already active"):
        switches.request_cancel(held.id, BEN, clock)


def test_an_ended_switch_cannot_be_cancelled(host: Host, clock: FakeClock) -> None:
    row = ended(host, clock)
    with pytest.raises(Conflict, match="has already ended"):
        switches.request_cancel(row.pk, BEN, clock)


@pytest.mark.parametrize("act", [switches.request_cancel, switches.mark_seen])
def test_a_switch_that_never_was_is_not_found(db: None, act: object) -> None:
    with pytest.raises(NotFound):
        act(4711, ANNA)  # type: ignore[operator]


def test_a_failure_is_seen_once_and_the_record_stays_as_it_is(host: Host, clock: FakeClock) -> None:
    row = ended(host, clock)
    before = SwitchEvent.objects.values().get(pk=row.pk)
    switches.mark_seen(row.pk, BEN, clock)
    switches.mark_seen(row.pk, ANNA, clock)
    row = SwitchEvent.objects.get(pk=row.pk)
    assert row.seen.by == "ben"
    assert SwitchEvent.objects.values().get(pk=row.pk) == before
    assert [b["actor"] for b in bodies(kind="switch.seen")] == ["ben"]


def test_what_still_runs_cannot_be_seen_to_have_failed(host: Host, clock: FakeClock) -> None:
    row = open_one(host, clock)
    with pytest.raises(NotFound, match="no ended switch"):
        switches.mark_seen(row.pk, BEN, clock)
