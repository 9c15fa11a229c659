"""Many hung hosts do not delay readings of one that answers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from switcher.models import Host, Reading
from switcher.records import changed
from switcher.watching.loop import Watcher, latest
from tests.hung import server
from tests.hung.conftest import add_host
from tests.hung.server import ENDLESS, Ollama, full_backlog
from tests.until import until

pytestmark = pytest.mark.django_db(transaction=True)

HUNG = 12
QUIET_S = 0.3
DEADLINE_S = 2.0  # seconds: a thread that reads a hung host is blocked for that long


@pytest.fixture
def watched_at(host: Host) -> Iterator[list[float]]:
    """Yield the times at which the healthy host was read."""
    times: list[float] = []

    def note(sender: object, host: str = "", **_: object) -> None:
        if sender == "reading" and host == "north-1":
            times.append(time.monotonic())

    changed.connect(note)
    yield times
    changed.disconnect(note)


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch, host: Host) -> Iterator[Watcher]:
    monkeypatch.setattr("switcher.ollama.client.QUICK_TIMEOUT_S", DEADLINE_S)
    made = Watcher(seed=1, quiet_s=QUIET_S)
    yield made
    assert made.stop(10)


def longest_gap(times: list[float]) -> float:
    return max(b - a for a, b in itertools.pairwise(times))


@pytest.fixture
def others(host: Host) -> Iterator[list[Ollama]]:
    """Yield HUNG further hosts, all at one server that is still healthy."""
    with server.ollama() as shared:
        for n in range(HUNG):
            add_host(f"other-{n}", shared.url)
        yield [shared]


@pytest.mark.parametrize("way", ["accepts and never answers", "drips a body"])
def test_hung_hosts_do_not_delay_readings_of_a_healthy_one(
    host: Host, others: list[Ollama], watcher: Watcher, watched_at: list[float], way: str
) -> None:
    others[0].bad = ENDLESS[way]
    watcher.start()
    until(lambda: Reading.objects.filter(failures__gte=1).count() == HUNG)
    until(lambda: len(watched_at) > 2)
    assert longest_gap(watched_at) < QUIET_S * 1.1 + 0.7
    assert latest()[host.pk].answered


def test_hosts_that_hang_all_at_once_do_not_delay_readings_of_a_healthy_one(
    host: Host, others: list[Ollama], watcher: Watcher, watched_at: list[float]
) -> None:
    """Until then they share threads with the healthy ones."""
    watcher.start()
    until(lambda: len(latest()) == HUNG + 1)
    assert all(seen.answered for seen in latest().values())
    others[0].bad = ENDLESS["accepts and never answers"]
    watched_at.clear()
    until(lambda: Reading.objects.filter(failures__gte=1).count() == HUNG)
    assert longest_gap(watched_at) < QUIET_S * 1.1 + 0.7


def test_hosts_that_accept_no_connection_do_not_delay_readings_of_a_healthy_one(
    host: Host, watcher: Watcher, watched_at: list[float]
) -> None:
    with full_backlog() as url:
        for n in range(HUNG):
            add_host(f"other-{n}", url)
        watcher.start()
        until(lambda: len(watched_at) > 5)
        assert longest_gap(watched_at) < QUIET_S * 1.1 + 0.7
        watcher.stop()
