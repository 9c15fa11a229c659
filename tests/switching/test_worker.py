"""Who runs a switch, and what becomes of one whose worker died, stopped or lost its host."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connections

from switcher.domain.specs import Spec
from switcher.domain.states import ENDED, OPEN, State, Strategy, can_move
from switcher.models import AuditEntry, Host, Lease, ModelProfile, SwitchEvent
from switcher.ollama.errors import Refused, Unreachable
from switcher.records import claimed_switch, config, leases, switches
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.switches import ResolvedRequest
from switcher.switching import lease_keeper as keeping
from switcher.switching import worker as working
from switcher.switching.worker import Worker, run_once
from tests.clocks import FakeClock
from tests.records.conftest import at_once
from tests.switching.conftest import ANNA
from tests.switching.fakehost import GB, FakeHost
from tests.until import PATIENCE_S, until

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., ModelProfile]
Go = Callable[..., SwitchEvent]


class Killed(BaseException):
    """kill -9: nothing of ours runs after it."""


def acts(fake: FakeHost) -> list[str]:
    """What was done to models: readings and copies are none of it."""
    return [a for a in fake.journal if a.split()[0] not in ("ps", "tags", "copy", "delete")]


def ask(host: Host, profile: ModelProfile, strategy: str = "auto") -> SwitchEvent:
    request = ResolvedRequest(host, Spec.of_profile(profile), profile.pk, Strategy(strategy))
    return switches.open_switch(request, ANNA)[0]


def check_record_and_host_agree(row: SwitchEvent, fake: FakeHost) -> None:
    """What is recorded is what is there, and the trail goes only where the table does."""
    row.refresh_from_db()
    host = Host.objects.get(pk=row.host_id)
    assert row.state in ENDED, f"{row.state}: {row.error}"
    assert row.ended_at is not None
    assert not row.degraded, row.outcome
    assert host.active_digest in fake.loaded, row.outcome
    if row.state == State.ACTIVE:
        assert host.active_tag == row.to_tag
        assert row.from_digest not in fake.loaded
    else:
        assert host.active_tag == row.from_tag
        assert row.to_digest not in fake.loaded
    kinds = AuditEntry.objects.filter(switch=row, kind__startswith="switch.").order_by("pk")
    states = [k.removeprefix("switch.") for k in kinds.values_list("kind", flat=True)]
    states = [s for s in states if s in set(State)]
    for left, right in itertools.pairwise(states):
        assert can_move(State(left), State(right)), states
    assert sum(s in ENDED for s in states) == 1, states
    assert AuditEntry.objects.filter(switch=row, kind="host.activated").count() == (
        row.state == State.ACTIVE
    )
    # The end is written first, and then the lease given back.
    until(lambda: Lease.objects.get(host=host).owner == "")


# --- one runs --------------------------------------------------------------------------------


def test_of_two_workers_that_take_it_up_at_once_one_runs_it(
    fake: FakeHost, host: Host, profile: Make
) -> None:
    row = ask(host, profile("mid-a"))
    runs = [partial(run_once, row.pk, connect=lambda _: fake) for _ in range(2)]
    assert sorted(at_once(*runs)) == [False, True]
    assert acts(fake) == ["load mid-a", "warm mid-a"]
    row.refresh_from_db()
    assert row.state == "active"


def test_what_has_ended_is_not_run_again(fake: FakeHost, profile: Make, switch: Go) -> None:
    row = switch(profile("mid-a"))
    fake.journal.clear()
    assert not run_once(row.pk, connect=lambda _: fake)
    assert fake.journal == []


# --- kill -9 ---------------------------------------------------------------------------------


@dataclass
class Scenario:
    """A switch from mid-a to another model, and what is to happen in it."""

    name: str
    to: str
    strategy: str
    fail: str = ""
    cancel: bool = False

    def __str__(self) -> str:
        return self.name


SCENARIOS = [
    Scenario("overlap", "mid-b", "overlap"),
    Scenario("swap", "big", "swap"),
    Scenario("overlap that fails", "mid-b", "overlap", fail="load mid-b"),
    Scenario("swap that fails", "big", "swap", fail="load big"),
    Scenario("swap that fails late", "big", "swap", fail="warm big"),
    Scenario("swap that is cancelled", "big", "swap", cancel=True),
]


class Killer:
    """Ends the process at the n-th point of one kind: before or after an act on the host, or
    right after something was committed."""

    def __init__(self, kind: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind, self.left = kind, n
        self.struck = False
        self._patch = monkeypatch

    def point(self, *_: object) -> None:
        if self.struck:
            return
        if not self.left:
            self.struck = True
            raise Killed
        self.left -= 1

    def arm(self, fake: FakeHost) -> None:
        # The dead give nothing back.
        self._patch.setattr(leases, "give_back", lambda *_: None)
        if self.kind == "before an act":
            fake.before_act = self.point
        elif self.kind == "after an act":
            fake.after_act = self.point
        else:
            for name in ("move", "note", "activate", "end"):
                self._patch.setattr(
                    ClaimedSwitch, name, self._then_die(getattr(ClaimedSwitch, name))
                )

    def _then_die(self, write: Callable[..., None]) -> Callable[..., None]:
        def wrapped(held: ClaimedSwitch, *args: Any, **facts: Any) -> None:
            write(held, *args, **facts)
            self.point()

        return wrapped


def begin(
    n: int, scenario: Scenario, clock: FakeClock, published: str = ""
) -> tuple[FakeHost, SwitchEvent]:
    """A host on which mid-a is active, and the switch asked for."""
    fake = FakeHost()
    for tag, gb in (("mid-a", 8), ("mid-b", 8), ("big", 20)):
        fake.add(tag, gb)
    row = Host(
        name=f"north-{n}",
        base_url=f"http://127.0.0.1:{1024 + n}",
        vram_bytes=24 * GB,
        published_name=published,
    )
    host = config.save_host(row, ANNA)
    old, new = (
        ModelProfile.objects.get_or_create(name=tag, defaults={"tag": tag})[0]
        for tag in ("mid-a", scenario.to)
    )
    first = ask(host, old)
    assert run_once(first.pk, "first", clock, connect=lambda _: fake)
    if scenario.fail:
        fake.fail[scenario.fail] = [Refused("Ollama answered 500: no", 500, "no")]
    row_ = ask(host, new, scenario.strategy)
    return fake, row_


@pytest.mark.parametrize("kind", ["before an act", "after an act", "after a commit"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_switch_whose_worker_was_killed_anywhere_is_brought_to_a_true_end(
    db: None, scenario: Scenario, kind: str
) -> None:
    clock, ends = FakeClock(), set()
    for n in range(60):
        fake, row = begin(n, scenario, clock)
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(kind, n, patch)
            killer.arm(fake)
            if scenario.cancel:
                _cancel_at(fake, "load big", row)
            try:
                run_once(row.pk, "doomed", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
            except Killed:
                pass
        fake.before_act = fake.after_act = lambda act: None
        if not killer.struck:
            break
        died = SwitchEvent.objects.get(pk=row.pk)
        if died.state in OPEN:
            assert not run_once(row.pk, "early", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
            clock.pass_time(leases.LEASE_S)
            assert (row.pk, row.host_id) in switches.unclaimed(clock)
            assert run_once(row.pk, "next", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
        else:
            Lease.objects.filter(host_id=row.host_id).update(owner="")
        check_record_and_host_agree(row, fake)
        ends.add((died.state, SwitchEvent.objects.get(pk=row.pk).state))
    else:
        raise AssertionError("it never came through")
    assert n or (scenario.fail and kind == "after an act"), "it died somewhere"
    Lease.objects.update(owner="")
    check_record_and_host_agree(row, fake)
    if kind == "after a commit" and not scenario.fail and not scenario.cancel:
        assert ends == set(AFTER[scenario.name]), "died in every phase, and finished where it can"


# In which state it was left, and how the next worker ends it.
AFTER = {
    "overlap": [
        ("checking", "active"),
        ("loading", "rolled_back"),
        ("warming", "rolled_back"),
        ("verifying", "rolled_back"),
        ("activating", "active"),
        ("unloading", "active"),
        ("active", "active"),
    ],
    "swap": [
        ("checking", "active"),
        ("draining", "rolled_back"),
        ("unloading", "rolled_back"),
        ("loading", "rolled_back"),
        ("warming", "rolled_back"),
        ("verifying", "rolled_back"),
        ("activating", "active"),
        ("active", "active"),
    ],
}


def _cancel_at(fake: FakeHost, act: str, row: SwitchEvent) -> None:
    inner = fake.before_act

    def cancel(now: str) -> None:
        if now == act:
            switches.request_cancel(row.pk, ANNA)
        inner(now)

    fake.before_act = cancel


def test_a_cancel_that_a_dead_worker_did_not_see_is_carried_out_by_the_next(
    db: None,
) -> None:
    clock = FakeClock()
    fake, row = begin(1, SCENARIOS[1], clock)
    with pytest.MonkeyPatch.context() as patch:
        Killer("after an act", 1, patch).arm(fake)  # the load of big
        with pytest.raises(Killed):
            run_once(row.pk, "doomed", clock, connect=lambda _: fake)
    fake.after_act = lambda act: None
    switches.request_cancel(row.pk, ANNA)
    clock.pass_time(leases.LEASE_S)
    assert run_once(row.pk, "next", clock, connect=lambda _: fake)
    row.refresh_from_db()
    assert (row.state, row.error_code) == ("cancelled", "cancelled")
    check_record_and_host_agree(row, fake)


def test_a_queued_switch_that_was_cancelled_touches_nothing(
    fake: FakeHost, host: Host, profile: Make
) -> None:
    row = ask(host, profile("mid-a"))
    switches.request_cancel(row.pk, ANNA)
    assert run_once(row.pk, connect=lambda _: fake)
    row.refresh_from_db()
    assert (row.state, row.outcome) == ("cancelled", "Nothing was touched on north-1.")
    assert fake.journal == []


# --- restoring -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience_s", "end"),
    [(0.0, ("failed", "refused", True)), (60.0, ("rolled_back", "refused", False))],
)
def test_a_server_that_is_away_while_it_is_restored_gets_time_and_is_no_mistake_of_ours(
    fake: FakeHost,
    host: Host,
    profile: Make,
    switch: Go,
    monkeypatch: pytest.MonkeyPatch,
    patience_s: float,
    end: tuple[str, str, bool],
) -> None:
    monkeypatch.setattr("switcher.switching.residency.RETRY_FOR_S", patience_s)
    monkeypatch.setattr("switcher.switching.residency.RETRY_INTERVAL_S", 0.01)
    switch(profile("mid-a"))
    fake.fail["load mid-b"] = [Refused("Ollama answered 500: no", 500, "no")]
    looks = []

    def go_away(act: str) -> None:
        if act == "ps" and "load mid-b" in fake.journal:
            looks.append(1)
            if len(looks) == 1:
                raise Unreachable("Connection refused at http://127.0.0.1:9.")

    fake.before_act = go_away
    row = switch(profile("mid-b"))
    assert (row.state, row.error_code, row.degraded) == end
    assert "mistake" not in row.error


def test_the_active_model_comes_back_before_and_whatever_becomes_of_others(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    """A foreign ghost (fact 24) that made room cannot come back; the active model can."""
    fake.add("theirs", 9)
    fake.hold("theirs")
    switch(profile("mid-a"))
    fake.fail["load big"] = [Refused("Ollama answered 500: no", 500, "no")]

    def lose_their_file(act: str) -> None:
        if act == "load big":
            del fake.models["theirs:latest"]

    fake.before_act = lose_their_file
    row = switch(profile("big"))
    assert (row.state, row.degraded) == ("rolled_back", False)
    assert fake.names == {"mid-a"}
    assert row.outcome == "big did not become active. mid-a is active again."
    assert row.restored == "mid-a"
    assert [w for w in row.warnings if w.startswith("theirs did not come back")]


def test_an_active_model_that_cannot_come_back_is_degraded_and_says_what_is_there(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.fail["load big"] = [Refused("Ollama answered 500: no", 500, "no")]
    fake.before_act = lambda act: (
        fake.models.clear() if act == "load big" else None  # type: ignore[func-returns-value]
    )
    row = switch(profile("big"))
    assert (row.state, row.degraded) == ("failed", True)
    assert "mid-a cannot come back: the name is no longer on the host" in row.outcome
    assert "north-1 holds no model" in row.outcome


def test_what_was_not_in_memory_is_not_said_to_stay(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.loaded.clear()  # expired by itself
    Host.objects.update(degraded="mid-a did not come back.")
    fake.fail["load mid-b"] = [Refused("Ollama answered 500: no", 500, "no")]
    row = switch(profile("mid-b"))
    assert row.state == "rolled_back"
    assert "stays active" not in row.outcome
    assert row.outcome.endswith("as it was before: mid-a was not in memory.")
    host.refresh_from_db()
    assert host.degraded, "it still does not hold what is recorded as active"


def test_what_expired_by_itself_in_the_middle_does_not_come_back(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.add("theirs", 1)
    theirs = fake.hold("theirs")
    clock = FakeClock()
    fake.fail["load mid-b"] = [Refused("Ollama answered 500: no", 500, "no")]

    def expire(act: str) -> None:
        if act == "load mid-b":
            assert theirs.expires_at is not None
            clock.set_wall_clock((theirs.expires_at - clock.now()).total_seconds() + 1)
            fake.loaded.pop("sha-theirs")

    fake.before_act = expire
    row = ask(host, profile("mid-b"))
    assert run_once(row.pk, "one", clock, connect=lambda _: fake)
    row.refresh_from_db()
    assert row.state == "rolled_back"
    assert "load theirs" not in fake.journal
    assert fake.names == {"mid-a"}


# --- losing the host -------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a keeper does often is done more often."""
    monkeypatch.setattr(keeping, "RENEW_INTERVAL_S", 0.1)
    monkeypatch.setattr(keeping, "POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr(keeping, "WATCH_INTERVAL_S", 0.02)


def take_over(host: Host) -> None:
    Lease.objects.filter(host=host).update(owner="another", fence=99)


@pytest.mark.parametrize("act", ["load mid-b", "warm mid-b", "unload mid-a"])
def test_who_lost_the_host_in_the_middle_touches_it_no_more(
    fake: FakeHost, host: Host, profile: Make, switch: Go, act: str
) -> None:
    switch(profile("mid-a"))
    row = ask(host, profile("mid-b"))
    fake.before_act = lambda now: take_over(host) if now == act else None
    assert not run_once(row.pk, connect=lambda _: fake)
    assert fake.journal[-1] == act, "not even a look"
    row.refresh_from_db()
    assert row.state in OPEN, "whoever has it now brings it to its end"
    lease = Lease.objects.get(host=host)
    assert (lease.owner, lease.fence) == ("another", 99), "and what is theirs is not given back"


def test_who_lost_the_row_in_the_middle_writes_no_more(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    row = ask(host, profile("mid-b"))

    def hold_by_another(act: str) -> None:
        if act == "load mid-b":
            take_over(host)
            assert claimed_switch.claim(row.pk, 99) is not None

    fake.before_act = hold_by_another
    assert not run_once(row.pk, connect=lambda _: fake)
    assert fake.journal[-1] == "load mid-b"
    row.refresh_from_db()
    assert (row.state, row.fence) == ("loading", 99)


def test_a_call_under_way_is_cut_when_the_lease_is_lost(
    fake: FakeHost, host: Host, profile: Make, quick: None
) -> None:
    row = ask(host, profile("mid-a"))
    fake.hangs.add("load mid-a")
    thread = threading.Thread(
        target=lambda: (fake.hanging.wait(PATIENCE_S), take_over(host), connections.close_all()),
        name="another",
    )
    thread.start()
    assert not run_once(row.pk, connect=lambda _: fake)
    thread.join(PATIENCE_S)
    assert fake.journal[-1] == "load mid-a"
    row.refresh_from_db()
    assert row.state == "loading"


def test_a_call_never_outlasts_the_lease_also_while_the_database_is_silent(
    fake: FakeHost, host: Host, profile: Make, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 1.0)

    def silent(*_: object) -> bool:
        raise OperationalError("database is locked")

    monkeypatch.setattr(leases, "renew", silent)
    row = ask(host, profile("mid-a"))
    fake.hangs.add("load mid-a")
    assert not run_once(row.pk, connect=lambda _: fake)
    row.refresh_from_db()
    assert (row.state, fake.names) == ("loading", set())


def test_while_a_call_lasts_the_lease_is_renewed(
    fake: FakeHost, host: Host, profile: Make, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.5)
    row = ask(host, profile("mid-a"))
    began = Lease.objects.get(host=host).until

    def last(act: str) -> None:
        if act == "load mid-a":
            first = Lease.objects.get(host=host).until
            until(lambda: (Lease.objects.get(host=host).until - first).total_seconds() > 1)

    fake.before_act = last
    assert run_once(row.pk, connect=lambda _: fake)
    row.refresh_from_db()
    assert (began, row.state) == (None, "active")


@pytest.mark.parametrize("state", [State.WARMING, State.ACTIVATING])
def test_a_database_that_fails_for_a_moment_is_no_end_of_a_switch(
    fake: FakeHost,
    host: Host,
    profile: Make,
    switch: Go,
    monkeypatch: pytest.MonkeyPatch,
    state: State,
) -> None:
    switch(profile("mid-a"))
    row = ask(host, profile("mid-b"))
    move = ClaimedSwitch.move

    def locked(held: ClaimedSwitch, to: State, **facts: Any) -> None:
        if to is state:
            raise OperationalError("database is locked")
        move(held, to, **facts)

    with monkeypatch.context() as patch:
        patch.setattr(ClaimedSwitch, "move", locked)
        with pytest.raises(OperationalError):
            run_once(row.pk, connect=lambda _: fake)
    assert SwitchEvent.objects.get(pk=row.pk).state in OPEN
    assert run_once(row.pk, connect=lambda _: fake)
    check_record_and_host_agree(row, fake)


def test_a_fault_of_our_own_ends_the_switch_loudly(
    fake: FakeHost, host: Host, profile: Make, switch: Go, caplog: pytest.LogCaptureFixture
) -> None:
    switch(profile("mid-a"))

    def stumble(act: str) -> None:
        if act == "warm mid-b":
            raise ZeroDivisionError

    fake.before_act = stumble
    row = switch(profile("mid-b"))
    assert (row.state, row.degraded, row.error_code) == ("failed", True, "internal")
    assert "Switchboard made a mistake (ZeroDivisionError)" in row.error
    assert "unexpected" in caplog.text
    host.refresh_from_db()
    assert host.degraded


# --- cancelling ------------------------------------------------------------------------------


def test_a_cancel_is_seen_within_two_seconds() -> None:
    assert keeping.POLL_INTERVAL_S + keeping.WATCH_INTERVAL_S < 2.0


@pytest.mark.parametrize(
    ("act", "names"),
    [("load mid-b", {"mid-a"}), ("warm mid-b", {"mid-a"})],
)
def test_a_cancel_is_seen_also_in_the_middle_of_a_call(
    fake: FakeHost, host: Host, profile: Make, switch: Go, act: str, names: set[str]
) -> None:
    switch(profile("mid-a"))
    row = ask(host, profile("mid-b"))
    fake.hangs.add(act)

    def cancel() -> None:
        fake.hanging.wait(PATIENCE_S)
        switches.request_cancel(row.pk, ANNA)
        working.connections.close_all()

    thread = threading.Thread(target=cancel)
    thread.start()
    assert run_once(row.pk, connect=lambda _: fake)
    thread.join(PATIENCE_S)
    row.refresh_from_db()
    assert (row.state, row.error) == ("cancelled", "anna cancelled the switch.")
    assert fake.names == names
    check_record_and_host_agree(row, fake)


def test_confirming_what_is_active_can_be_cancelled_too(
    fake: FakeHost, host: Host, profile: Make, switch: Go, quick: None
) -> None:
    """Fact 19: a dead runner is still listed, and answering takes as long as a load."""
    a = profile("mid-a")
    switch(a)
    row = ask(host, a)
    fake.hangs.add("warm mid-a")

    def cancel() -> None:
        fake.hanging.wait(PATIENCE_S)
        switches.request_cancel(row.pk, ANNA)
        working.connections.close_all()

    thread = threading.Thread(target=cancel)
    thread.start()
    assert run_once(row.pk, connect=lambda _: fake)
    thread.join(PATIENCE_S)
    row.refresh_from_db()
    assert (row.state, row.outcome) == ("cancelled", "Nothing was touched on north-1.")


def test_a_pinned_model_that_comes_back_slowly_holds_up_no_cancel(
    fake: FakeHost, host: Host, profile: Make, switch: Go, quick: None
) -> None:
    switch(profile("mid-a"))
    host.pinned.add(profile("embed"))
    fake.hold("embed")
    row = ask(host, profile("mid-b"))

    def evict(act: str) -> None:
        if act == "load mid-b":
            fake.loaded.pop("sha-embed", None)
            fake.hangs.add("load embed")
        if act == "load embed":
            switches.request_cancel(
                row.pk, ANNA
            ) if not fake.hanging.is_set() else fake.hangs.clear()

    fake.before_act = evict
    assert run_once(row.pk, connect=lambda _: fake)
    row.refresh_from_db()
    assert row.state == "cancelled"
    assert fake.names == {"mid-a", "embed"}


# --- the worker ------------------------------------------------------------------------------


@pytest.fixture
def workers(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Worker]]:
    """Makes workers whose switches run on the fake host; all are stopped in the end."""
    monkeypatch.setattr(working, "run_once", partial(run_once, connect=lambda _: fake))
    made: list[Worker] = []

    def make() -> Worker:
        made.append(Worker())
        return made[-1]

    yield make
    for worker in made:
        worker.stop(0)
        assert worker._loop.stop(PATIENCE_S)
    names = [t.name for t in threading.enumerate() if t.name.startswith("switch-")]
    until(lambda: not [t for t in threading.enumerate() if t.name in names])


def state_of(row: SwitchEvent) -> str:
    return SwitchEvent.objects.values_list("state", flat=True).get(pk=row.pk)


def test_a_worker_runs_what_waits_when_it_starts(
    fake: FakeHost, host: Host, profile: Make, workers: Callable[[], Worker]
) -> None:
    row = ask(host, profile("mid-a"))
    workers().start()
    until(lambda: state_of(row) == "active")


def test_a_worker_with_nothing_to_do_touches_no_host(
    fake: FakeHost, host: Host, profile: Make, switch: Go, workers: Callable[[], Worker]
) -> None:
    switch(profile("mid-a"))
    fake.journal.clear()
    worker = workers()
    worker.look_once()
    assert (fake.journal, worker._running) == ([], {})


def test_a_worker_that_stops_hands_over_what_does_not_end_in_time(
    fake: FakeHost, host: Host, profile: Make, switch: Go, workers: Callable[[], Worker]
) -> None:
    switch(profile("mid-a"))
    row = ask(host, profile("big"))
    fake.hangs.add("load big")
    first = workers()
    first.start()
    assert fake.hanging.wait(PATIENCE_S)
    first.stop(0.2)
    assert fake.journal[-1] == "load big", "it left the host as it was"
    assert state_of(row) == "loading"
    until(lambda: Lease.objects.get(host=host).owner == "", what="giving it back")

    fake.hangs.clear()
    workers().start()
    until(lambda: state_of(row) in ENDED)
    row.refresh_from_db()
    assert (row.state, row.error_code) == ("rolled_back", "interrupted")
    assert "Switchboard was stopped while loading" in row.error
    check_record_and_host_agree(row, fake)


def test_a_worker_that_stops_lets_what_runs_end_if_it_does_so_in_time(
    fake: FakeHost, host: Host, profile: Make, workers: Callable[[], Worker]
) -> None:
    row = ask(host, profile("mid-a"))
    at_it, go_on = threading.Event(), threading.Event()

    def wait(act: str) -> None:
        if act == "load mid-a":
            at_it.set()
            go_on.wait(PATIENCE_S)

    fake.before_act = wait
    worker = workers()
    worker.start()
    assert at_it.wait(PATIENCE_S)
    stopping = threading.Thread(target=worker.stop, args=(10.0,))
    stopping.start()
    go_on.set()
    stopping.join(PATIENCE_S)
    assert state_of(row) == "active"


def test_a_worker_that_was_stopped_takes_nothing_new(
    fake: FakeHost, host: Host, profile: Make, workers: Callable[[], Worker]
) -> None:
    worker = workers()
    worker.start()
    worker.stop(0)
    assert worker._loop.stop(PATIENCE_S)
    row = ask(host, profile("mid-a"))
    worker.look_once()
    assert state_of(row) == "queued"


def test_two_workers_beside_each_other_run_each_switch_once(
    fake: FakeHost, host: Host, profile: Make, workers: Callable[[], Worker]
) -> None:
    for _ in range(2):
        workers().start()
    for tag in ("mid-a", "mid-b", "mid-a"):
        found = ModelProfile.objects.filter(name=tag).first()
        row = ask(host, found or profile(tag))
        working.wake.worker()
        until(lambda row=row: state_of(row) in ENDED)  # type: ignore[misc]
    assert [a for a in acts(fake) if a.startswith("load")] == [
        "load mid-a",
        "load mid-b",
        "load mid-a",
    ]


def test_a_switch_that_breaks_off_again_and_again_is_not_tried_in_a_hot_loop(
    host: Host,
    profile: Make,
    workers: Callable[[], Worker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    def break_off(*_: object) -> bool:
        tries.append(1)
        raise OperationalError("database or disk is full")

    monkeypatch.setattr(working, "run_once", break_off)
    ask(host, profile("mid-a"))
    worker, wakes = workers(), []
    monkeypatch.setattr(working.wake, "worker", lambda: wakes.append(1))
    for n in range(1, 4):
        worker.look_once()
        until(lambda: not worker._running)
        assert len(tries) == n, "the next try waits for the next look"
    assert wakes == []
    assert "the run failed" in caplog.text
