"""Slow, half-open and too many clients do not keep others out."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from project.connections import Connections, max_connections
from tests.server.process import ROOT, Process, environment
from tests.until import PATIENCE_S, until

HALF = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-"
SLOW_BODY = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"


PROGRAM = "tests/server/with_few_files.py"


@pytest.fixture
def server(data: Path) -> Iterator[Process]:
    with Process(data, "--no-worker", program=PROGRAM) as made:
        yield made


class Gateway:
    """A gateway process alone."""

    def __init__(self, port: int) -> None:
        self.port = port


@pytest.fixture
def gateway(data: Path) -> Iterator[Gateway]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    args = [sys.executable, PROGRAM, "gateway", "--workers", "1", "--port", str(port)]
    with subprocess.Popen(args, env=environment(data), cwd=ROOT) as process:
        made = Gateway(port)
        until(lambda: _answers(made))
        yield made
        process.kill()


def _answers(server: Gateway) -> bool:
    try:
        return (
            requests.head(f"http://127.0.0.1:{server.port}/", timeout=PATIENCE_S).status_code == 200
        )
    except requests.ConnectionError:
        return False


def connect(server: Process | Gateway, sent: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.port), 10)
    made.settimeout(20)
    made.sendall(sent)
    return made


def is_served(server: Process) -> bool:
    return requests.get(f"{server.address}/health", timeout=PATIENCE_S).status_code == 200


def ending_of(client: socket.socket) -> bytes:
    """Return all that comes until the connection is closed."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def test_half_sent_requests_keep_nobody_out(server: Process) -> None:
    """As many as the limit of open files allows, from the same address as those who are served."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with ExitStack() as stack:
        for _ in range(min(1020, files - 200)):
            stack.enter_context(connect(server, HALF))
        assert all(is_served(server) for _ in range(5))
    assert is_served(server)


def test_five_thousand_half_sent_requests_keep_nobody_out(data: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(5000, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 200), hard))
    try:
        with Process(data, "--no-worker") as server, ExitStack() as stack:
            for _ in range(wanted):
                stack.enter_context(connect(server, HALF))
            assert all(is_served(server) for _ in range(5))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_half_sent_requests_keep_nobody_out_of_a_gateway_process(gateway: Gateway) -> None:
    with ExitStack() as stack:
        for _ in range(1020):
            stack.enter_context(connect(gateway, HALF))
        assert all(_answers(gateway) for _ in range(5))


@pytest.mark.parametrize("sent", [b"", HALF], ids=["nothing", "headers"])
def test_a_gateway_process_refuses_requests_that_do_not_arrive(
    gateway: Gateway, sent: bytes
) -> None:
    with connect(gateway, sent) as client:
        assert ending_of(client).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", HALF, SLOW_BODY], ids=["nothing", "headers", "body"])
def test_a_request_that_does_not_arrive_is_refused(server: Process, sent: bytes) -> None:
    with connect(server, sent) as client:
        assert ending_of(client).startswith(b"HTTP/1.1 408 ")


def test_dripping_headers_buy_no_time(server: Process) -> None:
    with connect(server, HALF) as client:
        client.settimeout(0.2)

        def is_refused() -> bool:
            try:
                client.sendall(b"x")
                return client.recv(100).startswith(b"HTTP/1.1 408 ")
            except TimeoutError:
                return False

        until(is_refused)


def test_a_body_that_arrives_slowly_but_steadily_is_read(server: Process) -> None:
    with connect(server, SLOW_BODY) as client:
        client.settimeout(0.1)
        left = 9999
        while left:
            try:
                assert not client.recv(100), "it was refused"
            except TimeoutError:
                pass
            client.sendall(b" " * min(200, left))
            left -= min(200, left)
        client.settimeout(20)
        assert client.recv(100).startswith(b"HTTP/1.1 401 ")


# --- the bounds ------------------------------------------------------------------------------


class Client:
    """A connection that waits for a request."""

    def __init__(self, connections: Connections, address: str) -> None:
        self.aborted = False
        self._connections, self._address = connections, address
        connections.add(address)
        connections.wait(address, self, self.abort)

    def abort(self) -> None:
        self.aborted = True
        self._connections.stop_waiting(self._address, self)
        self._connections.remove(self._address)

    def send_a_request(self) -> None:
        self._connections.stop_waiting(self._address, self)


def test_the_oldest_connection_that_waits_gives_way() -> None:
    connections = Connections(8)
    clients = [Client(connections, "192.0.2.1") for _ in range(4)]
    clients[0].send_a_request()
    assert connections.admit("192.0.2.1")
    assert [client.aborted for client in clients] == [False, True, False, False]


def test_who_is_served_gives_way_to_nobody() -> None:
    connections = Connections(8)
    for client in [Client(connections, "192.0.2.1") for _ in range(4)]:
        client.send_a_request()
    assert not connections.admit("192.0.2.1")
    assert connections.admit("192.0.2.2")


def test_a_trusted_proxy_may_use_all_connections() -> None:
    connections = Connections(8, exempt=lambda address: address == "192.0.2.1")
    for client in [Client(connections, "192.0.2.1") for _ in range(7)]:
        client.send_a_request()
    assert connections.admit("192.0.2.1")


def test_where_all_are_used_the_address_with_the_most_gives_way() -> None:
    connections = Connections(4, exempt=lambda _: True)
    many = [Client(connections, "192.0.2.1") for _ in range(3)]
    one = Client(connections, "192.0.2.2")
    assert connections.admit("192.0.2.3")
    assert (many[0].aborted, one.aborted) == (True, False)


@pytest.mark.parametrize("files", [64, 1024, 65536])
def test_descriptors_are_reserved_for_everything_else(files: int) -> None:
    assert 16 <= max_connections(files) <= max(16, files // 2 - 100)


def test_a_connection_that_was_made_to_give_way_is_not_counted_on_again() -> None:
    """Its end is noted only later."""
    connections = Connections(8)
    for n in range(4):
        connections.add("192.0.2.1")
        connections.wait("192.0.2.1", n, lambda: None)
    assert [connections.admit("192.0.2.1") for _ in range(5)] == [True] * 4 + [False]
