"""Addresses that are never contacted: whatever they are spelled as, and whatever names mean."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from switcher.domain.addresses import check_address
from switcher.domain.errors import BadRequest
from switcher.ollama import guard, relay
from switcher.ollama.client import Client
from switcher.ollama.errors import AddressRefused, OllamaError
from tests.domain.test_addresses import TRICKS
from tests.make import NOW
from tests.server.process import ROOT
from tests.until import PATIENCE_S


@pytest.fixture
def contacted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of all addresses that the test tries to connect to. None is reached."""
    found: list[Any] = []
    me = threading.get_ident()

    def refusing(connect: Any) -> Any:
        def refuse(sock: socket.socket, address: Any) -> Any:
            if threading.get_ident() != me:  # what another test has left running
                return connect(sock, address)
            found.append(address)
            raise ConnectionRefusedError

        return refuse

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refusing(getattr(socket.socket, name)))
    return found


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """Return the addresses of names under `.test`, to fill in. A name has one less each time."""
    real, known = socket.getaddrinfo, {}

    def look_up(host: Any, port: Any, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if not str(host).endswith(".test"):
            return real(host, port, *args, flags=flags, **kwargs)
        if flags & socket.AI_NUMERICHOST or not known.get(host):
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [row for ip in known[host] for row in real(ip, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def read(url: str) -> str:
    """Read the host by the control plane's client; return the error."""
    client = Client(url)
    try:
        return client.observe(NOW).error
    finally:
        client.close()


async def relayed(url: str) -> OllamaError:
    """Send a client's request there by the gateway's relay; return the error."""
    try:
        with pytest.raises(OllamaError) as failure:
            async with asyncio.timeout(PATIENCE_S), relay.ask(url, "GET", "/api/tags"):
                pass
        return failure.value
    finally:
        await relay.close()


@pytest.mark.parametrize("url", TRICKS)
async def test_no_spelling_of_a_refused_address_is_ever_contacted(
    url: str, contacted: list[Any]
) -> None:
    """An earlier release may have saved it."""
    assert read(url)
    await relayed(url)
    # What `requests` reads from two of the texts, and may contact.
    assert set(contacted) <= {("127.0.0.1", 80)}


@pytest.mark.parametrize("ip", ["169.254.169.254", "fd00:ec2::254", "0.0.0.0", "224.0.0.1"])
async def test_a_name_that_means_a_refused_address_is_not_contacted(
    ip: str, contacted: list[Any], names: dict[str, list[str]]
) -> None:
    names["trap.test"] = ["127.0.0.1", ip]
    assert "does not connect" in read("http://trap.test:11434")
    failure = await relayed("http://trap.test:11434")
    assert isinstance(failure, AddressRefused)
    assert f"does not connect to {ip} port 11434" in failure.text
    assert contacted == []


async def test_a_name_is_checked_again_for_each_connection(
    contacted: list[Any], names: dict[str, list[str]]
) -> None:
    names["trap.test"] = ["127.0.0.1"]
    assert "refused" in read("http://trap.test:11434")
    assert contacted == [("127.0.0.1", 11434)]
    names["trap.test"] = ["169.254.169.254"]
    assert "does not connect" in read("http://trap.test:11434")
    assert isinstance(await relayed("http://trap.test:11434"), AddressRefused)
    assert contacted == [("127.0.0.1", 11434)]


@pytest.mark.parametrize("port", [22, 2375, 5432, 6379])
async def test_ports_of_other_services_are_not_contacted(port: int, contacted: list[Any]) -> None:
    assert "another kind of service" in read(f"http://127.0.0.1:{port}")
    assert isinstance(await relayed(f"http://127.0.0.1:{port}"), AddressRefused)
    assert contacted == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost"])
async def test_switchboard_does_not_connect_to_itself(
    host: str, contacted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_own_ports", {8000})
    assert "Switchboard's own address" in read(f"http://{host}:8000")
    assert isinstance(await relayed(f"http://{host}:8000"), AddressRefused)
    assert contacted == []
    assert "refused at" in read(f"http://{host}:8001")
    assert contacted


def test_another_machine_may_use_the_port_of_this_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_own_ports", {8000})
    guard.check("192.0.2.1", 8000)


@pytest.mark.parametrize("url", ["http://127.0.0.1:11434", "http://10.0.0.21", "http://[fd12::1]"])
def test_loopback_and_private_addresses_are_contacted(url: str, contacted: list[Any]) -> None:
    assert check_address(url) == url
    assert read(url)
    assert contacted


@pytest.mark.parametrize("path", ["/a\x00b", "/a\nb", "/a%00b", "/a%0d%0ab", "/../x", "/%2e%2e/x"])
def test_a_path_without_control_characters_is_needed(path: str) -> None:
    with pytest.raises(BadRequest):
        check_address(f"http://10.0.0.21:11434{path}")


def test_readings_do_not_load_the_gateways_client() -> None:
    """It takes memory that commands and pages can do without."""
    code = "import sys, switcher.ollama.client; sys.exit('aiohttp' in sys.modules)"
    environ = os.environ | {"DJANGO_SETTINGS_MODULE": "project.settings"}
    assert subprocess.run([sys.executable, "-c", code], env=environ, cwd=ROOT).returncode == 0
