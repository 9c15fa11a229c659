"""The watcher: reads every host again and again, and keeps what it saw."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import OperationalError, connections

from switcher.audit.ledger import Actor
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, Resident
from switcher.domain.servers import Server
from switcher.domain.specs import Spec
from switcher.domain.states import State
from switcher.models import Host, Reading
from switcher.ollama import awaited
from switcher.records import changed, claimed_switch, config, leases, readings, switches
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.switches import ResolvedRequest
from switcher.watching import loop
from switcher.watching.loop import Watcher, check_now, latest
from tests.clocks import FakeClock
from tests.until import PATIENCE_S, until

pytestmark = pytest.mark.django_db(transaction=True)

ANNA = Actor("anna", "page")
A = Resident(ModelName.parse("mid-a"), "sha-a", 5, 5, 4096, datetime(2026, 11, 23, 10, tzinfo=UTC))
B = replace(A, name=ModelName.parse("mid-b"), digest="sha-b")
DISK = (Installed(ModelName.parse("mid-a"), "sha-a", 5),)
NORTH, SOUTH = "http://127.0.0.1:9", "http://127.0.0.1:8"


@dataclass
class FakeServer:
    """What one address answers, and how often it was asked for what."""

    resident: tuple[Resident, ...] = (A,)
    error: str = ""
    version: str = "0.12.3"
    whole: int = 0
    quick: int = 0
    closed: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    fault: Exception | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def reads(self) -> int:
        return self.whole + self.quick

    def observe(self, now: datetime) -> Observation:
        self.whole += 1
        return self._seen(now)

    def observe_resident(self, now: datetime, known: Observation) -> Observation:
        self.quick += 1
        return replace(self._seen(now), installed=known.installed, version=known.version)

    def _seen(self, now: datetime) -> Observation:
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        if self.fault is not None:
            raise self.fault
        if self.error:
            return Observation(now, error=self.error)
        return Observation(now, self.resident, DISK, self.version, 3)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeServer]:
    """Two addresses that answer. What waits for seconds waits for hundredths of them."""
    made = {NORTH: FakeServer(), SOUTH: FakeServer((B,))}
    monkeypatch.setattr(loop, "Client", lambda server: made[Server.at(server).base_url])
    monkeypatch.setattr(loop, "QUIET_INTERVAL_S", 0.05)
    monkeypatch.setattr(loop, "BUSY_INTERVAL_S", 0.02)
    monkeypatch.setattr(loop, "OFFLINE_INTERVAL_S", 0.3)
    monkeypatch.setattr(loop, "OFFLINE_PAUSE_S", 0.05)
    monkeypatch.setattr(loop, "LOOK_INTERVAL_S", 0.05)
    return made


@pytest.fixture
def north(servers: dict[str, FakeServer]) -> FakeServer:
    return servers[NORTH]


@pytest.fixture
def host(db: None) -> Host:
    return config.save_host(Host(name="north-1", base_url=NORTH), ANNA)


@pytest.fixture
def start() -> Iterator[Callable[..., Watcher]]:
    made: list[Watcher] = []

    def begin(**values: Any) -> Watcher:
        watcher = Watcher(seed=1, **values)
        made.append(watcher)
        watcher.start()
        return watcher

    yield begin
    for watcher in made:
        assert watcher.stop(PATIENCE_S)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[Observation]:
    """Every reading that was written to the disk."""
    kept: list[Observation] = []
    store = readings.store

    def keep(host_id: int, seen: Observation, failures: int) -> None:
        store(host_id, seen, failures)
        kept.append(seen)

    monkeypatch.setattr(readings, "store", keep)
    return kept


def reads_on(server: FakeServer, more: int = 3) -> None:
    """Wait until it was read that many times more."""
    wanted = server.reads + more
    until(lambda: server.reads >= wanted)


def digests(host: Host) -> list[str]:
    row = Reading.objects.filter(host=host).first()
    return [r["digest"] for r in row.resident] if row else []


# --- what is kept ----------------------------------------------------------------------------


def test_what_does_not_change_is_stored_once(
    host: Host, north: FakeServer, start: Any, stored: list[Observation]
) -> None:
    start()
    until(lambda: stored)
    reads_on(north, 5)
    assert len(stored) == 1
    assert digests(host) == ["sha-a"]
    assert latest()[host.pk].resident == (A,)


def test_a_change_is_stored_at_once(
    host: Host, north: FakeServer, start: Any, stored: list[Observation]
) -> None:
    start()
    until(lambda: stored)
    north.resident = (A, B)
    until(lambda: digests(host) == ["sha-a", "sha-b"])
    assert len(stored) == 2


def test_its_time_alone_is_stored_every_fifteen_seconds(
    host: Host, north: FakeServer, stored: list[Observation]
) -> None:
    clock = FakeClock()
    watcher = Watcher(clock)
    watcher._refresh_hosts()
    for _ in range(40):
        watched = watcher._hosts[host.pk]
        watcher._keep(watched, watcher._observe(watched))
        clock.pass_time(5)
    gaps = [(b.at - a.at).total_seconds() for a, b in itertools.pairwise(stored)]
    assert gaps == [readings.STORE_INTERVAL_S] * 13


def test_the_catalogue_is_read_seldom(host: Host, north: FakeServer, start: Any) -> None:
    start()
    reads_on(north, 6)
    assert north.whole == 1
    assert latest()[host.pk].installed == DISK


# --- failures --------------------------------------------------------------------------------


def test_a_failure_keeps_what_was_last_seen_and_says_since_when(
    host: Host, north: FakeServer, start: Any
) -> None:
    start()
    until(lambda: digests(host) == ["sha-a"])
    good = Reading.objects.get().answered_at
    north.error = "Connection refused at http://127.0.0.1:9."
    until(lambda: Reading.objects.get().failures >= 3)
    row = Reading.objects.get()
    assert (row.error, row.answered_at, digests(host)) == (north.error, good, ["sha-a"])
    seen = latest()[host.pk]
    assert (seen.answered, seen.resident, seen.installed) == (False, (A,), DISK)

    north.error = ""
    until(lambda: not Reading.objects.get().error)
    assert Reading.objects.get().failures == 0
    assert north.whole >= 2, "after a failure all of it is read again"


def test_a_host_that_never_answered_holds_nothing(
    host: Host, north: FakeServer, start: Any
) -> None:
    north.error = "No connection."
    start()
    until(lambda: Reading.objects.exists())
    row = Reading.objects.get()
    assert (row.resident, row.answered_at, row.error) == ([], None, "No connection.")


def test_who_does_not_answer_is_asked_often_enough_to_name_drift_within_five_seconds() -> None:
    watcher = Watcher(seed=1)
    watched = loop._Watched(readings.WatchedHost(1, "n", NORTH, False), None, 0.0)  # type: ignore[arg-type]
    waits = [watcher._interval(watched, failures) for failures in range(9)]
    steps = [2.5, 1, 1, 4, 4, 4, 4, 4, 4]
    for wait, step in zip(waits, steps, strict=True):
        assert step * 0.9 <= wait <= step * 1.1


@pytest.mark.parametrize("failures", [1000, 5000, 10**6])
def test_a_host_that_is_off_for_days_is_still_asked(failures: int) -> None:
    watcher = Watcher(seed=1)
    watched = loop._Watched(readings.WatchedHost(1, "n", NORTH, False), None, 0.0)  # type: ignore[arg-type]
    assert watcher._interval(watched, failures) < 5


def test_hosts_do_not_march_in_step() -> None:
    watcher = Watcher(seed=1)
    watched = loop._Watched(readings.WatchedHost(1, "n", NORTH, False), None, 0.0)  # type: ignore[arg-type]
    assert len({watcher._interval(watched, 0) for _ in range(20)}) == 20


def test_a_fault_of_our_own_stops_no_watching(
    host: Host, north: FakeServer, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    north.fault = ZeroDivisionError()
    start(readers=1)
    reads_on(north, 3)
    north.fault = None
    until(lambda: digests(host) == ["sha-a"])
    assert "north-1 could not be read" in caplog.text


def test_a_listener_that_fails_stops_no_watching(host: Host, north: FakeServer, start: Any) -> None:
    def stumble(sender: object, **_: object) -> None:
        if sender == "reading":
            raise RuntimeError("a listener's own fault")

    changed.connect(stumble)
    try:
        start(readers=1)
        reads_on(north, 3)
    finally:
        changed.disconnect(stumble)


def test_a_database_that_fails_for_a_moment_stops_no_watching(
    host: Host, north: FakeServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, fails = readings.watched_hosts, [1, 1]

    def sometimes() -> list[readings.WatchedHost]:
        if fails:
            fails.pop()
            raise OperationalError("database is locked")
        return hosts()

    monkeypatch.setattr(readings, "watched_hosts", sometimes)
    start()
    reads_on(north, 2)


def test_a_host_that_hangs_delays_no_other(
    host: Host, servers: dict[str, FakeServer], start: Any
) -> None:
    config.save_host(Host(name="south-1", base_url=SOUTH), ANNA)
    servers[NORTH].gate.clear()
    start(readers=2)
    reads_on(servers[SOUTH], 5)
    assert servers[NORTH].reads == 1, "nor is it asked twice at once"
    servers[NORTH].gate.set()
    reads_on(servers[NORTH], 2)


def test_hosts_that_hang_again_and_again_delay_none_that_answers(
    host: Host, servers: dict[str, FakeServer], start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first failure they have readers of their own: here there is one for the others."""
    monkeypatch.setattr("switcher.watching.readers.STUCK_S", 3600.0)
    hung = servers[NORTH]
    hung.error = "No answer."
    start(readers=1)
    until(lambda: Reading.objects.filter(failures__gte=1).exists())
    hung.gate.clear()
    hung.entered.clear()
    assert hung.entered.wait(PATIENCE_S)
    config.save_host(Host(name="south-1", base_url=SOUTH), ANNA)
    reads_on(servers[SOUTH], 5)
    assert not hung.gate.is_set()
    hung.error = ""
    hung.gate.set()
    until(lambda: Reading.objects.get(host=host).failures == 0)


def test_many_hosts_that_begin_to_hang_at_once_give_way_to_others(
    db: None, start: Any, servers: dict[str, FakeServer]
) -> None:
    """More of them than may read at a time, and all known as healthy until now."""
    hung = [f"http://127.0.0.1:{port}" for port in range(20, 26)]
    for n, url in enumerate(hung):
        servers[url] = FakeServer()
        config.save_host(Host(name=f"hung-{n}", base_url=url), ANNA)
    config.save_host(Host(name="south-1", base_url=SOUTH), ANNA)
    start(readers=2)
    until(lambda: len(latest()) == 7)
    for url in hung:
        servers[url].gate.clear()
    reads_on(servers[SOUTH], 60)
    for url in hung:
        assert servers[url].entered.is_set()
        servers[url].gate.set()


def test_who_decides_sleeps_while_a_host_is_read_and_wakes_for_its_next_reading(
    host: Host, north: FakeServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOOK_INTERVAL_S", 3600.0)
    north.gate.clear()
    watcher = start()
    assert north.entered.wait(PATIENCE_S)
    until(lambda: time.monotonic() + 3000 < watcher._wakes_at < float("inf"))
    north.gate.set()
    reads_on(north, 3)


def test_a_connection_to_the_database_that_broke_is_not_used_again(
    host: Host, north: FakeServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, closed, faults = readings.store, [], [1]

    def broken(host_id: int, seen: Observation, failures: int) -> None:
        if faults:
            faults.pop()
            raise OperationalError("server closed the connection unexpectedly")
        store(host_id, seen, failures)

    close = type(connections).close_all

    def note(self: Any) -> None:
        closed.append(threading.current_thread().name)
        close(self)

    monkeypatch.setattr(type(connections), "close_all", note)
    monkeypatch.setattr(readings, "store", broken)
    start()
    until(lambda: digests(host) == ["sha-a"])
    assert closed == ["watch-keeper"]


def test_the_hosts_are_not_looked_up_again_with_each_reading(
    host: Host, north: FakeServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOOK_INTERVAL_S", 3600.0)
    hosts, looks = readings.watched_hosts, []

    def counted() -> list[readings.WatchedHost]:
        looks.append(1)
        return hosts()

    monkeypatch.setattr(readings, "watched_hosts", counted)
    start()
    reads_on(north, 10)
    assert len(looks) == 1
    config.put_host({"keep_alive": "2h"}, ANNA, host.pk)
    until(lambda: len(looks) == 2)


# --- hosts come, go and move -----------------------------------------------------------------


def test_a_host_that_is_added_is_read_soon(
    servers: dict[str, FakeServer], start: Any, db: None
) -> None:
    start()
    host = config.save_host(Host(name="south-1", base_url=SOUTH), ANNA)
    until(lambda: digests(host) == ["sha-b"])


def test_a_host_that_is_removed_is_left_alone_and_forgotten(
    host: Host, north: FakeServer, start: Any
) -> None:
    start()
    until(lambda: host.pk in latest())
    config.remove_host(host.pk, ANNA)
    until(lambda: north.closed)
    assert host.pk not in latest()
    reads = north.reads
    other = config.save_host(Host(name="south-1", base_url=SOUTH), ANNA)
    until(lambda: digests(other))
    assert north.reads <= reads + 1


def test_a_reading_that_ends_after_its_host_was_removed_is_dropped(
    host: Host, north: FakeServer, start: Any
) -> None:
    north.gate.clear()
    start()
    assert north.entered.wait(PATIENCE_S)
    config.remove_host(host.pk, ANNA)
    until(lambda: north.closed)
    north.gate.set()
    other = config.save_host(Host(name="south-1", base_url=SOUTH), ANNA)
    until(lambda: digests(other))
    assert host.pk not in latest()
    assert not Reading.objects.filter(host=host).exists()


def test_a_host_that_moves_is_read_at_its_new_address_and_the_old_one_closed(
    host: Host, servers: dict[str, FakeServer], start: Any
) -> None:
    start()
    until(lambda: digests(host) == ["sha-a"])
    config.put_host({"base_url": SOUTH}, ANNA, host.pk)
    until(lambda: digests(host) == ["sha-b"])
    assert servers[NORTH].closed == 1


def test_what_the_old_address_held_is_not_shown_for_a_new_one_that_is_silent(
    host: Host, servers: dict[str, FakeServer], start: Any
) -> None:
    start()
    until(lambda: digests(host) == ["sha-a"])
    servers[SOUTH].error = "No connection."
    config.put_host({"base_url": SOUTH}, ANNA, host.pk)
    until(lambda: Reading.objects.filter(error="No connection.").exists())
    assert digests(host) == []
    assert latest()[host.pk].resident == ()


# --- how often -------------------------------------------------------------------------------


def busy(host: Host) -> ClaimedSwitch:
    row, _ = switches.open_switch(ResolvedRequest(host, Spec("", "mid-b")), ANNA)
    fence = leases.take(host.pk, "one")
    assert fence is not None
    held = claimed_switch.claim(row.pk, fence)
    assert held is not None
    return held


def test_while_a_switch_runs_it_is_read_each_second(
    host: Host, north: FakeServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "QUIET_INTERVAL_S", 3600.0)
    start()
    until(lambda: latest().get(host.pk))
    held = busy(host)
    reads_on(north, 5)
    held.move(State.CHECKING)
    held.end(State.FAILED)
    assert not _is_busy(host)
    watcher = loop.Watcher(seed=1)
    quiet = loop._Watched(readings.WatchedHost(1, "n", NORTH, False), None, 0.0)  # type: ignore[arg-type]
    assert watcher._interval(quiet, 0) > 3000


def _is_busy(host: Host) -> bool:
    return next(h.busy for h in readings.watched_hosts() if h.id == host.pk)


def test_what_is_written_about_a_host_has_it_read_at_once(
    host: Host, north: FakeServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "QUIET_INTERVAL_S", 3600.0)
    start()
    until(lambda: latest().get(host.pk))
    config.put_host({"keep_alive": "2h"}, ANNA, host.pk)
    until(lambda: north.reads == 2)


def test_what_is_written_while_it_is_read_has_it_read_once_more(
    host: Host, north: FakeServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "QUIET_INTERVAL_S", 3600.0)
    north.gate.clear()
    start()
    assert north.entered.wait(PATIENCE_S)
    config.put_host({"keep_alive": "2h"}, ANNA, host.pk)
    north.gate.set()
    until(lambda: north.reads >= 2)


def test_each_reading_is_told(host: Host, north: FakeServer, start: Any) -> None:
    heard: list[tuple[object, str]] = []

    def listen(sender: object, host: str = "", **_: object) -> None:
        heard.append((sender, host))

    changed.connect(listen)
    try:
        start()
        until(lambda: heard.count(("reading", "north-1")) >= 3)
    finally:
        changed.disconnect(listen)


def test_a_watcher_that_stops_reads_no_more_and_closes_its_connections(
    host: Host, north: FakeServer, start: Any
) -> None:
    watcher = start()
    reads_on(north, 2)
    assert watcher.stop(PATIENCE_S)
    assert north.closed == 1
    connections.close_all()


# --- looking at once -------------------------------------------------------------------------


def test_a_host_can_be_looked_at_at_once(host: Host, north: FakeServer) -> None:
    seen = check_now(host.pk, NORTH)
    assert (seen.resident, digests(host)) == ((A,), ["sha-a"])
    assert latest()[host.pk] is seen
    assert north.closed == 1


def test_a_look_that_fails_keeps_what_is_known(host: Host, north: FakeServer) -> None:
    good = check_now(host.pk, NORTH)
    north.error = "No connection."
    assert check_now(host.pk, NORTH).error == "No connection."
    assert check_now(host.pk, NORTH).error == "No connection."
    row = Reading.objects.get()
    assert (row.error, row.failures, digests(host)) == ("No connection.", 1, ["sha-a"])
    assert latest()[host.pk] is good


def test_a_look_that_fails_is_not_the_watchers_failure(
    host: Host, north: FakeServer, start: Any, servers: dict[str, FakeServer]
) -> None:
    start()
    reads_on(north)
    silent = FakeServer(error="No connection.")
    servers[SOUTH] = silent
    for _ in range(5):  # by another way to the same host, which is closed
        assert check_now(host.pk, SOUTH).error
    assert loop.failures(host.pk) == 0
    reads_on(north)
    assert Reading.objects.get().error == ""


def test_a_host_that_answers_anyone_is_read_at_once(
    host: Host, north: FakeServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "OFFLINE_INTERVAL_S", 3600.0)
    north.error = "No connection."
    start()
    until(lambda: loop.failures(host.pk) >= loop.OFFLINE_AFTER)
    north.error = ""
    until(lambda: NORTH in awaited._awaited)
    awaited.answered(NORTH)
    until(lambda: latest()[host.pk].answered)


def test_a_host_that_hangs_is_asked_again_soon_after(
    host: Host, north: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval counts from the beginning of a reading."""
    clock = FakeClock()
    watcher = Watcher(clock, seed=1)
    watched = loop._Watched(readings.WatchedHost(host.pk, "n", Server.at(NORTH), False), None, 0.0)  # type: ignore[arg-type]
    monkeypatch.setitem(loop._failures, host.pk, 9)
    watched.due, watched.began = float("inf"), clock.monotonic()
    clock.sleep(5.0)
    watcher._set_due(watched)
    assert watched.due - clock.monotonic() == pytest.approx(loop.OFFLINE_PAUSE_S)


def test_a_reading_of_a_host_that_never_was_is_dropped(db: None) -> None:
    readings.store(4711, Observation(datetime.now(UTC)), 0)
    assert not Reading.objects.exists()


def test_drift_of_a_quiet_host_is_named_within_five_seconds_and_so_is_its_silence() -> None:
    """What reading takes comes on top: milliseconds, or QUICK_TIMEOUT_S where a host hangs."""
    slowest = 1.1  # of the jitter
    assert slowest * loop.QUIET_INTERVAL_S < 5.0
    assert slowest * (loop.QUIET_INTERVAL_S + (loop.OFFLINE_AFTER - 1) * loop.BUSY_INTERVAL_S) < 5.0
