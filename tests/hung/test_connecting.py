"""Making a connection takes a bounded time, and a cut ends it."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from switcher.models import Host, SwitchEvent
from switcher.ollama import calls, connecting
from switcher.ollama.calls import Call
from switcher.ollama.errors import CallCut, TimedOut, Unreachable
from switcher.records import switches
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.worker import Worker
from tests.hung import server
from tests.hung.conftest import ANNA, NEVER_S
from tests.hung.server import Ollama, full_backlog
from tests.ollama.rawserver import OK, answering, raw_server
from tests.until import PATIENCE_S, until


def send(url: str, timeout_s: float = 5.0, call: Call | None = None) -> calls.Answer:
    session = calls.Session()
    try:
        return calls.send(session, "GET", f"{url}/api/ps", None, timeout_s, call or Call())
    finally:
        session.close()


def cut_after_it_began(url: str, began: Callable[[], object]) -> None:
    """Check that a cut ends a call that nothing else ends."""
    call = Call()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(send, url, NEVER_S, call)
        until(began)
        call.cut()
        with pytest.raises(CallCut):
            waiting.result(PATIENCE_S)


def connecting_now() -> bool:
    """Whether some thread waits for a connection."""

    def inside(frame: Any) -> bool:
        while frame is not None:
            if frame.f_code.co_name in ("_connect_socket", "_resolve"):
                return True
            frame = frame.f_back
        return False

    return any(inside(frame) for frame in sys._current_frames().values())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make deadlines so long that only a cancel can end a call."""
    monkeypatch.setattr("switcher.ollama.client.QUICK_TIMEOUT_S", NEVER_S)
    monkeypatch.setattr("switcher.ollama.calls.CONNECT_TIMEOUT_S", NEVER_S)


@pytest.fixture
def dead_name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Make every lookup of a `.test` name hang until the test is over."""
    real, over = socket.getaddrinfo, threading.Event()

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".test") and not kwargs.get("flags"):
            over.wait(PATIENCE_S)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield over
    over.set()
    until(lambda: not connecting._lookups)


def test_a_cut_ends_the_wait_for_a_connection(patient: None) -> None:
    with full_backlog() as url:
        cut_after_it_began(url, connecting_now)


def test_a_cut_ends_the_wait_for_a_name(patient: None, dead_name_server: threading.Event) -> None:
    cut_after_it_began("http://gone.test", lambda: connecting._lookups)


def test_a_dead_name_server_holds_nobody_beyond_the_deadline(
    dead_name_server: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(Unreachable, match="No connection to"):
        send("http://gone.test")
    assert not dead_name_server.is_set()


def test_a_deadline_shorter_than_the_connect_timeout_is_kept(patient: None) -> None:
    with full_backlog() as url, pytest.raises((TimedOut, Unreachable)):
        send(url, timeout_s=0.2)


def test_however_many_wait_for_a_name_one_thread_looks_it_up(
    dead_name_server: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CONNECT_TIMEOUT_S", 0.2)
    with ThreadPoolExecutor(8) as pool:
        for waiting in [pool.submit(send, "http://gone.test") for _ in range(8)]:
            with pytest.raises(Unreachable):
                waiting.result(PATIENCE_S)
    assert [t.name for t in threading.enumerate()].count("name-lookup") == 1


def test_a_dead_address_leaves_time_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first address of the name is a black hole."""
    monkeypatch.setattr(calls, "CONNECT_TIMEOUT_S", 2.0)
    real = socket.getaddrinfo
    with full_backlog() as dead, raw_server(answering(OK)) as server:

        def two(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if host != "two.test":
                return real(host, port, *args, **kwargs)
            if kwargs.get("flags"):
                raise socket.gaierror(socket.EAI_NONAME, "not a number")
            ports = [int(url.rsplit(":", 1)[1]) for url in (dead, server.url)]
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, ("127.0.0.1", p)) for p in ports]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        assert send("http://two.test:1").status == 200


def test_a_handshake_that_is_never_answered_ends_with_the_deadline() -> None:
    with raw_server(lambda peer: peer.hang()) as server:
        with pytest.raises(TimedOut):
            send(server.url.replace("http:", "https:"), timeout_s=0.3)


# --- a switch that is cancelled -------------------------------------------------------------


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    made.start()
    yield made
    made.stop(5.0)
    assert made._loop.stop(PATIENCE_S)


def cancel(row: SwitchEvent) -> None:
    """Cancel the switch, and wait until its record shows the end."""
    switches.request_cancel(row.pk, ANNA)
    until(lambda: SwitchEvent.objects.get(pk=row.pk).ended_at)
    row.refresh_from_db()


def test_a_cancel_takes_effect_while_the_host_accepts_no_connection(
    host: Host, patient: None, worker: Worker
) -> None:
    with full_backlog() as url:
        Host.objects.update(base_url=url)
        row, _ = service.request_switch(SwitchRequest("mid-b"), ANNA)
        until(connecting_now)
        cancel(row)
    assert (row.state, row.outcome) == ("cancelled", "Nothing was touched on north-1.")


def test_a_cancel_takes_effect_while_the_hosts_name_is_looked_up(
    host: Host, patient: None, worker: Worker, dead_name_server: threading.Event
) -> None:
    Host.objects.update(base_url="http://gone.test")
    row, _ = service.request_switch(SwitchRequest("mid-b"), ANNA)
    until(lambda: connecting._lookups)
    cancel(row)
    assert row.state == "cancelled"


@pytest.mark.parametrize("bad", ["silent", "drips"])
def test_a_cancel_takes_effect_during_a_load_that_hangs(
    host: Host, ollama: Ollama, worker: Worker, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    """The old model is restored, and verified."""
    monkeypatch.setattr("switcher.switching.loading.load_timeout_s", lambda spec, size: NEVER_S)
    ollama.bad = server.silent if bad == "silent" else server.ENDLESS["drips a body"]
    loads: list[str] = []

    def first_load(method: str, path: str) -> bool:
        if path == "/api/generate" and not ollama.loaded and not loads:
            loads.append(path)
            return True
        return False

    ollama.where = first_load
    row, _ = service.request_switch(SwitchRequest("mid-b", strategy="swap"), ANNA)
    until(ollama.raw.dripping.is_set)
    cancel(row)
    assert (row.state, row.restored, row.degraded) == ("cancelled", "mid-a", False)
    assert set(ollama.loaded) == {"mid-a:latest"}
