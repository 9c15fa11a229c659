"""Each sink over real files and sockets: what arrives, and what is said where nothing does."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from switcher.audit import sinks
from switcher.audit.paths import FILE, SYSLOG, WEBHOOK, Sink
from switcher.audit.sinks import NotDelivered, deliver
from switcher.audit.verifier.switchboard_verify import read_anchors

NOTE = "switchboard\n7\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\n— switchboard c2lnbmVk\n"


# --- file ------------------------------------------------------------------------------------


def test_the_file_grows_by_a_line_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "new" / "anchors.txt"
    for _ in range(3):
        deliver(Sink(FILE, str(path)), NOTE)
    assert len(path.read_text().splitlines()) == 3
    assert list(read_anchors(path.read_text().splitlines())) == [NOTE] * 3


def test_a_line_that_a_crash_has_cut_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "anchors.txt"
    path.write_text('{"note": "switchb')
    deliver(Sink(FILE, str(path)), NOTE)
    assert list(read_anchors(path.read_text().splitlines())) == [NOTE]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotDelivered, match="Is a directory"):
        deliver(Sink(FILE, str(tmp_path)), NOTE)


# --- syslog ----------------------------------------------------------------------------------


def heard(raw: bytes) -> list[str]:
    return list(read_anchors(raw.decode().splitlines()))


@pytest.mark.parametrize("scheme", ["", "udp://"])
def test_syslog_over_udp(scheme: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        deliver(Sink(SYSLOG, f"{scheme}127.0.0.1:{server.getsockname()[1]}"), NOTE)
        raw = server.recv(4096)
    assert raw.startswith(b"<38>switchboard: checkpoint ")
    assert heard(raw) == [NOTE]


def test_syslog_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        deliver(Sink(SYSLOG, f"tcp://127.0.0.1:{server.getsockname()[1]}"), NOTE)
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as file:
            raw = file.read()
    assert raw.endswith(b"\n")
    assert heard(raw) == [NOTE]


def test_syslog_over_a_local_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        server.settimeout(10)
        deliver(Sink(SYSLOG, str(tmp_path / "log")), NOTE)
        assert heard(server.recv(4096)) == [NOTE]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.mark.parametrize("target", ["tcp://127.0.0.1:{}", "/nowhere/log"])
def test_a_syslog_that_is_not_there_is_said(target: str) -> None:
    with pytest.raises(NotDelivered):
        deliver(Sink(SYSLOG, target.format(free_port())), NOTE)


@pytest.mark.parametrize("target", ["ftp://127.0.0.1", "udp://", "127.0.0.1:many"])
def test_an_address_that_is_none_is_said(target: str) -> None:
    with pytest.raises(NotDelivered, match="its address cannot be used"):
        deliver(Sink(SYSLOG, target), NOTE)


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
            self.server.may_end.wait(10)
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
    thread.join(10)
    server.server_close()


def test_a_webhook_gets_the_note(hook: Hook) -> None:
    deliver(Sink(WEBHOOK, hook.url), NOTE)
    assert hook.got == [{"note": NOTE}]


@pytest.mark.parametrize("status", [302, 401, 500])
def test_another_answer_than_yes_is_none(hook: Hook, status: int) -> None:
    """A redirect is not followed: it could lead anywhere."""
    hook.status = status
    with pytest.raises(NotDelivered, match=f"answered {status}"):
        deliver(Sink(WEBHOOK, hook.url), NOTE)
    assert len(hook.got) == 1


def test_a_webhook_that_is_silent_is_not_waited_for_long(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.silent = True
    monkeypatch.setattr(sinks, "ANSWER_S", 0.1)
    with pytest.raises(NotDelivered, match="no answer in time"):
        deliver(Sink(WEBHOOK, hook.url), NOTE)


def test_what_went_wrong_names_no_address() -> None:
    with pytest.raises(NotDelivered) as caught:
        deliver(Sink(WEBHOOK, f"http://127.0.0.1:{free_port()}/?token=canary"), NOTE)
    assert str(caught.value) == "cannot connect"
    with pytest.raises(NotDelivered, match="its address cannot be used"):
        deliver(Sink(WEBHOOK, "canary"), NOTE)
