"""What reaches the gateway through the real server: chunked bodies, `Expect`, odd addresses.

There is no host, so a request that was understood is answered with 503 `no_host`.
"""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.server.process import Process, copy
from tests.until import PATIENCE_S

CHAT = b'{"model": "x", "messages": []}'


@pytest.fixture(scope="module")
def server(
    template: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, str]]:
    """A running server's port, and a signed-in person's session."""
    data = copy(template[0], tmp_path_factory.mktemp("wire") / "data")
    with Process(data) as process:
        yield process.port, template[1]
        assert "Traceback" not in process.output


class Wire:
    """A connection on which each byte is the test's own."""

    def __init__(self, server: tuple[int, str], first_line: str, *headers: str) -> None:
        port, session = server
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        lines = [f"{first_line} HTTP/1.1", "Host: localhost", f"Cookie: session_id={session}"]
        self.send("\r\n".join([*lines, "Connection: close", *headers, "", ""]).encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> bytes:
        return self.socket.recv(65536)

    def end(self) -> tuple[int, bytes]:
        """Return the status and the body of the reply."""
        with self.socket, self.socket.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
        return int(head.split()[1]), body


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


def test_a_chunked_body_is_read(server: tuple[int, str]) -> None:
    wire = Wire(server, "POST /v1/chat/completions", "Transfer-Encoding: chunked")
    for part in (CHAT[:7], CHAT[7:], b""):
        wire.send(b"%x\r\n%s\r\n" % (len(part), part))
    status, body = wire.end()
    assert (status, code(body)) == (503, "no_host")


def test_a_client_that_expects_100_continue_is_told_to_go_on(server: tuple[int, str]) -> None:
    packed = gzip.compress(CHAT)
    length = f"Content-Length: {len(packed)}"
    headers = (length, "Expect: 100-continue", "Content-Encoding: gzip")
    wire = Wire(server, "POST /v1/chat/completions", *headers)
    assert wire.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(packed)
    status, body = wire.end()
    assert (status, code(body)) == (503, "no_host")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_body_that_is_too_large_is_refused_in_the_clients_shape(
    server: tuple[int, str], path: str
) -> None:
    status, body = Wire(server, f"POST {path}", "Content-Length: 65000000").end()
    error = json.loads(body)["error"]
    assert status == 413
    assert "at most 64 MB" in (error if path.startswith("/api/") else error["message"])


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "//v1/chat/completions"])
def test_slashes_too_many_are_ignored(server: tuple[int, str], path: str) -> None:
    wire = Wire(server, f"POST {path}", f"Content-Length: {len(CHAT)}")
    wire.send(CHAT)
    status, body = wire.end()
    assert (status, code(body)) == (503, "no_host")


@pytest.mark.parametrize("path", ["/models", "/v1/v1/models", "/openai/v1/models"])
def test_a_wrong_base_url_is_told_the_right_address(server: tuple[int, str], path: str) -> None:
    status, body = Wire(server, f"GET {path}").end()
    assert (status, code(body)) == (404, "unknown_path")
    assert b"The right address is /v1/models" in body


def test_a_probe_is_answered_and_a_browser_sent_to_the_login(server: tuple[int, str]) -> None:
    port, _ = server
    url = f"http://127.0.0.1:{port}/"
    probe, head = requests.get(url, timeout=PATIENCE_S), requests.head(url, timeout=PATIENCE_S)
    assert (probe.status_code, probe.text) == (200, "Ollama is running")
    assert (head.status_code, head.text) == (200, "")
    browser = requests.get(
        url, headers={"Accept": "text/html"}, timeout=PATIENCE_S, allow_redirects=False
    )
    assert (browser.status_code, browser.headers["location"]) == (302, "/login/?next=/")


def test_a_preflight_is_answered(server: tuple[int, str]) -> None:
    asked = ("Origin: http://localhost:3000", "Access-Control-Request-Method: POST")
    assert Wire(server, "OPTIONS /v1/chat/completions", *asked).end() == (204, b"")
