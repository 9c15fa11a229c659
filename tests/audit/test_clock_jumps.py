"""The trail says when the wall clock was set."""

from __future__ import annotations

import pytest

from switcher.audit.clock_jumps import CLOCK_SET, ClockWatch
from switcher.audit.ledger import SERVER, append, writing
from switcher.audit.verification import verify
from switcher.models import AuditEntry
from tests.clocks import FakeClock

pytestmark = pytest.mark.django_db(transaction=True)


def recorded() -> list[int]:
    return [e.facts["seconds"] for e in AuditEntry.objects.filter(kind=CLOCK_SET).order_by("seq")]


def test_a_clock_that_is_set_while_the_server_runs_is_recorded_once() -> None:
    clock = FakeClock()
    watch = ClockWatch(clock)
    for ahead_s in (0, 3600, 0, -20, 0):
        clock.pass_time(5)
        clock.set_wall_clock(ahead_s)
        watch.look_once()
    assert recorded() == [3600, -20]


def test_small_corrections_are_not_recorded() -> None:
    clock = FakeClock()
    watch = ClockWatch(clock)
    for _ in range(5):
        clock.pass_time(5)
        clock.set_wall_clock(1.5)
        watch.look_once()
    assert recorded() == []


def test_a_start_behind_the_newest_entry_is_recorded() -> None:
    clock = FakeClock()
    with writing():
        append("server.started", SERVER, clock=clock)
    clock.set_wall_clock(-3600)
    ClockWatch(clock).look_once()
    assert recorded() == [-3600]


def test_the_trail_verifies_when_times_go_back() -> None:
    clock = FakeClock()
    watch = ClockWatch(clock)
    watch.look_once()
    clock.set_wall_clock(-3600)
    watch.look_once()
    with writing():
        append("server.started", SERVER, clock=clock)
    assert verify().report.intact
