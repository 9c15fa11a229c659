"""The server as a process: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import io
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.server.process import WITH_EXTRAS, Process, python
from tests.until import PATIENCE_S, until

LIVE = "/ws/live/?topics=board"


@asynccontextmanager
async def open_page(
    server: Process, key: str, path: str = LIVE
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {"Origin": server.address, "Cookie": f"session_id={key}"}
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(server.address + path, headers=headers) as page,
    ):
        yield page


@asynccontextmanager
async def request(method: str, url: str, data: Any = None) -> AsyncIterator[aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as client, client.request(method, url, data=data) as answer:
        yield answer


async def read_close(page: aiohttp.ClientWebSocketResponse) -> int:
    """Return the code with which the server closes, ignoring earlier messages."""
    while (message := await page.receive(timeout=PATIENCE_S)).type is aiohttp.WSMsgType.TEXT:
        pass
    assert message.type is aiohttp.WSMsgType.CLOSE
    return int(message.data)


def test_it_says_where_it_listens_and_ends_with_code_0(data: Path) -> None:
    with Process(data) as server:
        with socket.create_connection(("127.0.0.1", server.port), 5):
            pass
        assert server.end() == 0
    assert f"Switchboard listens on {server.address}/" in server.lines
    assert "Traceback" not in server.output


def test_interrupting_it_ends_with_code_0(data: Path) -> None:
    with Process(data) as server:
        server.popen.send_signal(signal.SIGINT)
        assert server.popen.wait(PATIENCE_S) == 0
    assert "Traceback" not in server.output


def test_a_port_in_use_is_one_line_and_code_1(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = python("manage.py", "serve", "--port", str(port), data=data)
    assert done.returncode == 1
    expected = f"Cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert done.stderr.strip() == f"CommandError: {expected}"


def test_a_port_in_use_starts_no_worker(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = python("manage.py", "serve", "--port", str(taken.getsockname()[1]), data=data)
    assert "worker runs" not in done.stderr


def test_an_old_database_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    done = python("manage.py", "serve", "--port", "0", data=tmp_path / "data")
    assert done.returncode == 1
    assert "Run `manage.py migrate`" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_migrate_first(tmp_path: Path) -> None:
    with Process(tmp_path / "data", "--migrate") as server:
        assert server.end() == 0


def test_without_worker(data: Path) -> None:
    with Process(data, "--no-worker") as server:
        assert server.end() == 0
    assert "the watcher runs" in server.output
    assert "the worker runs" not in server.output


@pytest.mark.parametrize("attempt", range(3))
async def test_it_ends_with_open_connections(attempt: int, data: Path, session_key: str) -> None:
    """CPython 3.11 crashed here 10 times of 10 before pending tasks were cancelled."""
    with Process(data, program=WITH_EXTRAS) as server:
        half_read = socket.create_connection(("127.0.0.1", server.port), 5)
        half_read.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n")
        async with (
            open_page(server, session_key) as page,
            request("GET", server.address + "/extra/stream") as stream,
        ):
            assert (await page.receive_json(timeout=PATIENCE_S))["type"] == "state"
            assert await stream.content.read(2) == b"x\n"
            server.terminate()
            assert await read_close(page) == 1012
            assert await asyncio.to_thread(server.popen.wait, PATIENCE_S) == 0
        half_read.close()
    assert "Traceback" not in server.output


async def test_it_exits_although_a_thread_hangs(data: Path) -> None:
    with Process(data, program=WITH_EXTRAS) as server:
        async with request("GET", server.address + "/extra/thread") as answer:
            assert await answer.content.read(2) == b"x\n"
            server.terminate()
            assert await asyncio.to_thread(server.popen.wait, PATIENCE_S) == 0


async def test_a_page_reconnects_after_a_restart(data: Path, session_key: str) -> None:
    with Process(data) as server:
        async with open_page(server, session_key) as page:
            await page.receive_json(timeout=PATIENCE_S)
            server.terminate()
            assert await read_close(page) == 1012
        assert await asyncio.to_thread(server.popen.wait, PATIENCE_S) == 0
    with Process(data, port=server.port) as server:
        async with open_page(server, session_key) as page:
            assert (await page.receive_json(timeout=PATIENCE_S))["type"] == "state"


async def test_a_socket_without_a_session_is_accepted_and_then_closed(data: Path) -> None:
    """To a browser, a plain 403 looks like a lost connection and is retried forever."""
    with Process(data) as server:
        async with open_page(server, "nobody") as page:
            assert await read_close(page) == 4401


async def test_a_state_may_be_larger_than_what_a_page_may_send(
    data: Path, session_key: str
) -> None:
    """Autobahn's message limit applies in both directions."""
    hosts = """
import django; django.setup()
from switcher.models import Host
from switcher.records import config
from switcher.audit.ledger import SERVER
for n in range(20):
    config.save_host(Host(name=f"host-{n}", base_url=f"http://127.0.0.1:{n + 2}"), SERVER)
"""
    assert python("-c", hosts, data=data).returncode == 0
    with Process(data, "--no-worker") as server:
        async with open_page(server, session_key) as page:
            assert len((await page.receive_json(timeout=PATIENCE_S))["html"]) > 10_000
            await page.send_str("x" * 5000)
            while (
                message := await page.receive(timeout=PATIENCE_S)
            ).type is aiohttp.WSMsgType.TEXT:
                pass
            assert message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}  # cut
        assert server.end() == 0
    assert "Traceback" not in server.output


@pytest.mark.parametrize(
    ("path", "origin"),
    [(LIVE, "http://elsewhere.example"), (LIVE, "http://127.0.0.1:1"), ("/ws/other/", "")],
)
async def test_other_origins_and_other_paths_are_refused(
    path: str, origin: str, data: Path, session_key: str
) -> None:
    with Process(data) as server:
        headers = {"Origin": origin or server.address, "Cookie": f"session_id={session_key}"}
        async with aiohttp.ClientSession() as client:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(server.address + path, headers=headers)
        assert refused.value.status == 403
    assert "Traceback" not in server.output


def body(mebibytes: int, chunked: bool) -> io.BytesIO | AsyncIterator[bytes]:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(mebibytes):
            yield b"x" * 2**20

    return pieces() if chunked else io.BytesIO(b"x" * mebibytes * 2**20)


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_size_of_a_body_is_limited(chunked: bool, data: Path) -> None:
    with Process(data, program=WITH_EXTRAS) as server:
        url = server.address + "/extra/body"
        async with request("POST", url, body(31, chunked)) as answer:
            assert int(await answer.text()) == 31 * 2**20
        try:
            async with request("POST", url, body(72, chunked)) as answer:
                assert answer.status == 413
        except aiohttp.ClientOSError:
            pass  # cut while still sending: refused too
        assert server.end() == 0
    assert "Traceback" not in server.output


async def test_a_stream_waits_for_a_client_that_does_not_read(data: Path) -> None:
    flood = b"GET /extra/flood HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with Process(data, program=WITH_EXTRAS) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(flood)
        # The reader pauses at 128 kB; the system's own buffers hold some MB.
        until(lambda: "sent 1 MB" in server.output)
        for _ in range(5):
            async with request("GET", server.address + "/extra/body") as answer:
                assert answer.status == 200  # the others are served meanwhile
        assert "sent 32 MB" not in server.output
        body = await reader.read()
        assert body.count(b"x") == 64 * 2**20
        writer.close()
        assert server.end() == 0
    assert "Traceback" not in server.output


async def test_a_response_that_fails_half_way_is_visibly_incomplete(data: Path) -> None:
    """The second one as well: the mechanism keeps working."""
    with Process(data, program=WITH_EXTRAS) as server:
        for _ in range(2):
            async with request("GET", server.address + "/extra/breaks") as answer:
                with pytest.raises(aiohttp.ClientError):
                    await asyncio.wait_for(answer.read(), PATIENCE_S)
        # HTTP/1.0, without chunks, which a proxy may use.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /extra/breaks HTTP/1.0\r\nHost: localhost\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        assert server.end() == 0
    assert server.output.count("no more of this") >= 3


LONG = """
import django; django.setup()
from switcher.audit.ledger import append, writing, Actor
with writing():
    for n in range(300):
        append("test.told", Actor("anna", "page"), n=n, x="a" * 100000)
"""


def test_an_export_that_the_shutdown_cuts_off_is_recorded_and_signed(
    data: Path, session_key: str
) -> None:
    assert python("-c", LONG, data=data).returncode == 0
    with Process(data) as server, socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", server.port))
        head = f"Host: localhost\r\nCookie: session_id={session_key}\r\n\r\n"
        line.sendall(f"GET /audit/export?format=jsonl HTTP/1.1\r\n{head}".encode())
        assert b" 200 " in line.recv(300)
        assert server.end() == 0
    with sqlite3.connect(data / "switchboard.sqlite3") as database:
        (last,) = database.execute("SELECT kind FROM switcher_auditentry ORDER BY seq DESC LIMIT 1")
        (newest,) = database.execute("SELECT max(seq) FROM switcher_ledgerrow").fetchone()
        (signed,) = database.execute("SELECT max(size) FROM switcher_checkpoint").fetchone()
    assert (last[0], signed) == ("audit.exported", newest)


def test_the_size_of_headers_is_limited(data: Path) -> None:
    many = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(20))
    with Process(data) as server, socket.create_connection(("127.0.0.1", server.port), 5) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 400 ")


def test_the_log_of_an_ordinary_run_has_no_warnings(data: Path) -> None:
    with Process(data) as server:
        until(lambda: "the worker runs" in server.output)
        server.end()
    assert not [line for line in server.lines if "WARNING" in line or "ERROR" in line]


CHAT = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Host(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        usage = {"prompt_tokens": 2, "completion_tokens": 3}
        models = [{"name": "mid-a:latest", "model": "mid-a:latest", "digest": "sha"}]
        said = json.dumps({"choices": [], "usage": usage, "models": models})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())
    do_GET = do_POST
    def log_message(self, *_): pass
server = HTTPServer(("127.0.0.1", 0), Host)
print(server.server_port, flush=True)
server.serve_forever()
"""

ACTIVE = """
import django, sys; django.setup()
from switcher.models import Host
from switcher.records import config
from switcher.audit.ledger import SERVER
from switcher.domain.specs import Spec
host = config.save_host(Host(name="one", base_url=sys.argv[1]), SERVER)
active = {"active_tag": "mid-a", "active_digest": "", "active_spec": Spec("", "mid-a").to_json()}
Host.objects.filter(pk=host.pk).update(**active)
"""

COUNTED = """
import django; django.setup()
from switcher.models import GatewayProcess, Usage
print(sum(u.requests for u in Usage.objects.all()), GatewayProcess.objects.count())
"""


async def test_the_gateway_stores_its_usage_counts_at_the_shutdown(
    data: Path, session_key: str
) -> None:
    with subprocess.Popen([sys.executable, "-c", CHAT], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        url = f"http://127.0.0.1:{host.stdout.readline().strip()}"
        assert python("-c", ACTIVE, url, data=data).returncode == 0
        with Process(data, "--no-worker") as server:
            headers = {"Cookie": f"session_id={session_key}"}
            async with aiohttp.ClientSession(headers=headers) as client:
                for _ in range(7):
                    chat = server.address + "/v1/chat/completions"
                    async with client.post(chat, json={"messages": []}) as answer:
                        assert answer.status == 200, await answer.text()
            assert server.end() == 0
        host.kill()
    assert "Traceback" not in server.output
    assert python("-c", COUNTED, data=data).stdout.split() == ["7", "0"]
