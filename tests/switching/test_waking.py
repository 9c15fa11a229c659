"""A host that sleeps is woken by the switch that needs it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from switcher.domain.errors import BadRequest
from switcher.domain.wake_on_lan import check_mac, magic_packet
from switcher.models import AuditEntry, Host, ModelProfile, SwitchEvent
from switcher.ollama import waking as sending
from switcher.ollama.errors import Unreachable
from switcher.records import config
from switcher.switching import driver, waking
from switcher.switching.service import wake_host
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost

MAC = "00:1a:2b:3c:4d:5e"
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sent: list[str] = []
    monkeypatch.setattr(driver, "send_wake_packet", sent.append)
    monkeypatch.setattr(waking, "send_wake_packet", sent.append)
    monkeypatch.setattr(waking, "LOOK_INTERVAL_S", 0.0)
    return sent


@pytest.fixture
def sleeper(host: Host) -> Host:
    config.put_host({"mac_address": MAC}, ANNA, host.pk)
    return Host.objects.get(pk=host.pk)


def sleeps_for(fake: FakeHost, looks: int) -> None:
    fake.fail["ps"] = [Unreachable("No route to host") for _ in range(looks)]


Switch = Callable[..., SwitchEvent]
Profile = Callable[..., ModelProfile]


def test_a_switch_wakes_a_host_that_does_not_answer(
    fake: FakeHost, sleeper: Host, packets: list[str], switch: Switch, profile: Profile
) -> None:
    sleeps_for(fake, 3)
    done = switch(profile("mid-a"))
    assert (done.state, packets) == ("active", [MAC])
    assert "was sent a Wake-on-LAN packet" in done.warnings[0]
    assert "was woken and answered after" in done.warnings[1]
    entry = AuditEntry.objects.get(kind="host.woken")
    assert (entry.host, entry.facts["mac_address"]) == (sleeper.name, MAC)


def test_a_host_that_answers_is_not_woken(
    fake: FakeHost, sleeper: Host, packets: list[str], switch: Switch, profile: Profile
) -> None:
    done = switch(profile("mid-a"))
    assert (done.state, packets, done.warnings) == ("active", [], [])


def test_a_host_without_a_mac_address_fails_at_once(
    fake: FakeHost, host: Host, packets: list[str], switch: Switch, profile: Profile
) -> None:
    sleeps_for(fake, 1)
    done = switch(profile("mid-a"))
    assert (done.state, packets) == ("failed", [])


def test_a_host_that_does_not_wake_ends_the_switch(
    fake: FakeHost,
    sleeper: Host,
    packets: list[str],
    switch: Switch,
    profile: Profile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waking, "WAKE_TIMEOUT_S", 0.0)
    sleeps_for(fake, 50)
    done = switch(profile("mid-a"))
    assert (done.state, packets) == ("failed", [MAC])
    assert "No route to host" in done.error
    assert not Host.objects.get(pk=sleeper.pk).degraded


def test_a_person_can_wake_a_host(sleeper: Host, packets: list[str]) -> None:
    wake_host(sleeper.name, ANNA)
    assert packets == [MAC]
    assert AuditEntry.objects.filter(kind="host.woken", actor="anna").count() == 1


def test_a_host_without_a_mac_address_cannot_be_woken(host: Host, packets: list[str]) -> None:
    with pytest.raises(BadRequest, match="no MAC address"):
        wake_host(host.name, ANNA)
    assert packets == []


def test_the_packet_arrives_as_the_standard_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        card.bind(("127.0.0.1", 0))
        card.settimeout(10)
        monkeypatch.setattr(sending, "BROADCAST", card.getsockname())
        sending.send_wake_packet(MAC)
        assert (
            card.recv(200) == magic_packet(MAC) == b"\xff" * 6 + bytes.fromhex("001a2b3c4d5e") * 16
        )


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("00:1A:2B:3C:4D:5E", MAC),
        ("00-1a-2b-3c-4d-5e", MAC),
        (" 001a2b3c4d5e ", MAC),
        ("001a.2b3c.4d5e", MAC),
        ("", ""),
    ],
)
def test_the_usual_spellings_of_an_address_are_read(text: str, mac: str) -> None:
    assert check_mac(text) == mac


@pytest.mark.parametrize("text", ["00:1a", "ff:ff:ff:ff:ff:ff", "00:1a:2b:3c:4d:5g", "gpu-1"])
def test_what_is_no_address_of_a_card_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="00:1a:2b"):
        check_mac(text)
