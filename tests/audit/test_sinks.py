"""Each sink over real files and sockets: what arrives, and the errors if nothing does."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from switcher.audit import deliveries
from switcher.audit.deliveries import NotDelivered, send
from switcher.audit.paths import FILE, SYSLOG, WEBHOOK, Sink
from switcher.audit.verifier.switchboard_verify import read_anchors
from tests.until import PATIENCE_S

NOTE = "switchboard\n7\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\n— switchboard c2lnbmVk\n"


# --- file ------------------------------------------------------------------------------------


def test_each_checkpoint_adds_a_line_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "anchors.txt"
    for _ in range(3):
        send(Sink(FILE, str(path)), NOTE)
    assert len(path.read_text().splitlines()) == 3
    assert list(read_anchors(path.read_text().splitlines())) == [NOTE] * 3


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "anchors.txt"
    path.write_text('{"note": "switchb')
    send(Sink(FILE, str(path)), NOTE)
    assert list(read_anchors(path.read_text().splitlines())) == [NOTE]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotDelivered, match="Is a directory"):
        send(Sink(FILE, str(tmp_path)), NOTE)


# --- syslog ----------------------------------------------------------------------------------


def heard(raw: bytes) -> list[str]:
    return list(read_anchors(raw.decode().splitlines()))


@pytest.mark.parametrize("scheme", ["", "udp://"])
def test_syslog_over_udp(scheme: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        send(Sink(SYSLOG, f"{scheme}127.0.0.1:{server.getsockname()[1]}"), NOTE)
        raw = server.recv(4096)
    assert raw.startswith(b"<38>switchboard: checkpoint ")
    assert heard(raw) == [NOTE]


def test_syslog_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        send(Sink(SYSLOG, f"tcp://127.0.0.1:{server.getsockname()[1]}"), NOTE)
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as file:
            raw = file.read()
    assert raw.endswith(b"\n")
    assert heard(raw) == [NOTE]


def test_syslog_over_a_local_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        server.settimeout(10)
        send(Sink(SYSLOG, str(tmp_path / "log")), NOTE)
        assert heard(server.recv(4096)) == [NOTE]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.mark.parametrize("target", ["tcp://127.0.0.1:{}", "/nowhere/log"])
def test_a_syslog_that_does_not_listen_is_an_error(target: str) -> None:
    with pytest.raises(NotDelivered):
        send(Sink(SYSLOG, target.format(free_port())), NOTE)


@pytest.mark.parametrize("target", ["ftp://127.0.0.1", "udp://", "127.0.0.1:many"])
def test_an_unusable_address_is_an_error(target: str) -> None:
    with pytest.raises(NotDelivered, match="its address cannot be used"):
        send(Sink(SYSLOG, target), NOTE)


# --- webhook ---------------------------------------------------------------------------------


class Hook(HTTPServer):
    """A webhook that answers as a test says."""

    status = 204
    silent = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[Any] = []
        self.may_end = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?token=canary"


class Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.got.append(json.loads(self.rfile.read(length)))
        if self.server.silent:
            self.server.may_end.wait(PATIENCE_S)
            return
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.may_end.set()
    server.shutdown()
    thread.join(PATIENCE_S)
    server.server_close()


def test_a_webhook_gets_the_checkpoint(hook: Hook) -> None:
    send(Sink(WEBHOOK, hook.url), NOTE)
    assert hook.got == [{"note": NOTE}]


@pytest.mark.parametrize("status", [302, 401, 500])
def test_only_a_success_status_counts(hook: Hook, status: int) -> None:
    """A redirect is not followed: it could lead anywhere."""
    hook.status = status
    with pytest.raises(NotDelivered, match=f"answered {status}"):
        send(Sink(WEBHOOK, hook.url), NOTE)
    assert len(hook.got) == 1


def test_a_silent_webhook_times_out(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    hook.silent = True
    monkeypatch.setattr(deliveries, "ANSWER_TIMEOUT_S", 0.1)
    with pytest.raises(NotDelivered, match="no answer in time"):
        send(Sink(WEBHOOK, hook.url), NOTE)


def test_errors_name_no_address() -> None:
    with pytest.raises(NotDelivered) as caught:
        send(Sink(WEBHOOK, f"http://127.0.0.1:{free_port()}/?token=canary"), NOTE)
    assert str(caught.value) == "cannot connect"
    with pytest.raises(NotDelivered, match="its address cannot be used"):
        send(Sink(WEBHOOK, "canary"), NOTE)
