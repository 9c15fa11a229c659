"""One server at two addresses is one host: refused when added, and named when it becomes so."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from switcher.domain.drift import Kind
from switcher.domain.errors import BadRequest, Conflict
from switcher.models import Drift, Host
from switcher.ollama import guard
from switcher.records import config
from switcher.switching.service import SwitchRequest, plan, request_switch
from switcher.watching.loop import Watcher, check_now, latest
from switcher.watching.new_address import check_new_server
from tests.forwarder import Forwarder
from tests.simulated import SimulatedOllama
from tests.until import until
from tests.watching.conftest import ANNA, Watched


@pytest.fixture
def south_ollama() -> Iterator[SimulatedOllama]:
    with SimulatedOllama("mid-a=4GB", "mid-b=4GB", "other=1GB", load_rate="50GB") as made:
        yield made


@pytest.fixture
def forwarder(ollama: SimulatedOllama) -> Iterator[Forwarder]:
    with Forwarder(ollama.url) as made:
        yield made


def test_another_address_of_a_host_is_refused_by_name(
    watched: Watched, forwarder: Forwarder
) -> None:
    watched.switch("mid-a")
    check_now(watched.host.pk, watched.host.base_url)
    with pytest.raises(BadRequest, match=r"is the server of host north-1 .*same nanosecond"):
        check_new_server(forwarder.url)


def test_a_host_that_was_never_read_is_recognised_too(
    watched: Watched, forwarder: Forwarder
) -> None:
    watched.ollama.load("mid-a")
    with pytest.raises(BadRequest, match="is the server of host north-1"):
        check_new_server(forwarder.url)


def test_an_idle_server_with_the_same_files_is_refused_until_a_load_tells_them_apart(
    watched: Watched, forwarder: Forwarder
) -> None:
    with pytest.raises(BadRequest, match="share a directory, load a model on one of them"):
        check_new_server(forwarder.url)


def test_another_server_with_the_same_models_is_no_second_address(
    watched: Watched, south_ollama: SimulatedOllama
) -> None:
    watched.ollama.load("mid-a")
    south_ollama.load("mid-a")
    check_new_server(south_ollama.url)


def test_a_server_that_does_not_answer_may_be_added(watched: Watched) -> None:
    check_new_server("http://127.0.0.1:8")


def test_a_host_may_keep_its_own_address(watched: Watched, forwarder: Forwarder) -> None:
    watched.ollama.load("mid-a")
    check_new_server(forwarder.url, watched.host.pk)


def test_a_failover_address_that_leads_to_another_host_stops_switches_on_both(
    watched: Watched, watcher: Watcher, forwarder: Forwarder, south_ollama: SimulatedOllama
) -> None:
    forwarder.point_to(south_ollama.url)
    south = config.save_host(Host(name="south-1", base_url=forwarder.url), ANNA)
    watched.switch("mid-a")
    watched.settled()
    forwarder.point_to(watched.ollama.url)
    drift = watched.named(Kind.SAME_SERVER)
    assert f"north-1 is the same server as south-1 ({forwarder.url})" in drift.text
    until(lambda: Drift.objects.filter(host=south, kind="same-server").exists())
    for host in ("north-1", "south-1"):
        request = SwitchRequest(model="mid-b", host=host)
        assert "is the same server as" in plan(request).blocked
        with pytest.raises(Conflict, match="Remove one of them"):
            request_switch(request, ANNA)
    config.remove_host(south.pk, ANNA)
    until(lambda: not Drift.objects.filter(pk=drift.pk, ended_at=None).exists())
    drift.refresh_from_db()
    assert drift.ending.startswith("The addresses lead to different servers again")
    assert not plan(SwitchRequest(model="mid-b", host="north-1")).blocked


@pytest.mark.parametrize("ip", ["169.254.169.254", "224.0.0.1"])
def test_a_name_of_an_address_that_is_never_contacted_cannot_be_saved(
    ip: str, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 11434))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [row])
    with pytest.raises(BadRequest, match=f"does not connect to {ip}"):
        check_new_server("http://trap.test:11434")


def test_switchboards_own_address_cannot_be_saved(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_own_ports", {8000})
    with pytest.raises(BadRequest, match="Switchboard's own address"):
        check_new_server("http://localhost:8000")


def test_nothing_is_repaired_while_two_hosts_are_one_server(
    watched: Watched, watcher: Watcher, forwarder: Forwarder
) -> None:
    """What one host desires would undo the other."""
    row = Host(name="south-1", base_url=forwarder.url)
    south = config.save_host(row, ANNA)  # as an earlier release let it be added
    watched.switch("mid-a")
    watched.named(Kind.SAME_SERVER)
    watched.set(drift_policy="repair")
    watched.ollama.act("evict", tag="mid-a")
    watched.named(Kind.EVICTED, "mid-a")
    at = latest()[watched.host.pk].at
    until(lambda: latest()[watched.host.pk].at > at)
    assert watched.repairs() == []
    config.remove_host(south.pk, ANNA)
    until(lambda: watched.repairs())
