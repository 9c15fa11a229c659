"""Many hung hosts do not delay readings of one that answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from switcher.models import Host, Reading
from switcher.ollama import calls, client, connecting
from switcher.watching.loop import Watcher, latest
from tests.hung import server
from tests.hung.conftest import NEVER_S, add_host
from tests.hung.server import ENDLESS, Ollama, full_backlog
from tests.until import PATIENCE_S, until

pytestmark = pytest.mark.django_db(transaction=True)

HUNG = 12
WAYS = ["accepts and never answers", "drips a body"]


@pytest.fixture
def watcher(host: Host) -> Iterator[Watcher]:
    made = Watcher(seed=1, quiet_s=0.3)
    yield made
    assert made.stop(PATIENCE_S)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which no reading that hangs ends by itself."""

    def begin() -> None:
        monkeypatch.setattr(client, "QUICK_TIMEOUT_S", NEVER_S)
        monkeypatch.setattr(calls, "CONNECT_TIMEOUT_S", NEVER_S)

    return begin


@pytest.fixture
def others(host: Host, watcher: Watcher) -> Iterator[Ollama]:
    """Yield the server of HUNG further hosts, which is still healthy."""
    with server.ollama() as shared:
        for n in range(HUNG):
            add_host(f"other-{n}", shared.url)
        yield shared


def is_read_on(ollama: Ollama) -> None:
    """Wait for three more readings of the healthy host."""
    before = ollama.asked.count("GET /api/ps")
    until(lambda: ollama.asked.count("GET /api/ps") >= before + 3)


@pytest.mark.parametrize("way", WAYS)
def test_hung_hosts_do_not_delay_readings_of_a_healthy_one(
    host: Host, ollama: Ollama, others: Ollama, watcher: Watcher,
    patient: Callable[[], None], monkeypatch: pytest.MonkeyPatch, way: str,
) -> None:  # fmt: skip
    """They have failed before, so they have readers of their own."""
    monkeypatch.setattr(client, "QUICK_TIMEOUT_S", 0.5)
    others.bad = ENDLESS[way]
    watcher.start()
    until(lambda: Reading.objects.filter(failures__gte=1).count() == HUNG)
    patient()
    before = others.misbehaved
    until(lambda: others.misbehaved == before + HUNG)
    is_read_on(ollama)
    assert others.misbehaved == before + HUNG, "they still hang"
    assert latest()[host.pk].answered


@pytest.mark.parametrize("way", WAYS)
def test_hosts_that_hang_all_at_once_do_not_delay_readings_of_a_healthy_one(
    ollama: Ollama, others: Ollama, watcher: Watcher, patient: Callable[[], None], way: str
) -> None:
    """Until then they share threads with the healthy one."""
    watcher.start()
    until(lambda: len(latest()) == HUNG + 1)
    assert all(seen.answered for seen in latest().values())
    patient()
    others.bad = ENDLESS[way]
    until(lambda: others.misbehaved >= HUNG)
    is_read_on(ollama)
    # A host may have been asked for details of a model as well.
    assert others.misbehaved < 2 * HUNG, "they still hang"


def test_hosts_that_accept_no_connection_do_not_delay_readings_of_a_healthy_one(
    ollama: Ollama, watcher: Watcher, patient: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    over, waiting = threading.Event(), set()

    def wait_for_write(sock: object, timeout: float) -> bool:
        waiting.add(threading.get_ident())
        if over.wait(timeout):
            raise ConnectionRefusedError
        return False

    patient()
    with full_backlog() as url:
        for n in range(HUNG):
            add_host(f"other-{n}", url)
        watcher.start()
        until(lambda: latest())
        monkeypatch.setattr(connecting, "wait_for_write", wait_for_write)
        until(lambda: len(waiting) == HUNG)
        is_read_on(ollama)
        watcher.stop()
        over.set()
