"""The live connection of a real page recovers by itself and then shows the newest state."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.server.process import Process, copy, python, seed
from tests.until import PATIENCE_S

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"

pytestmark = [
    pytest.mark.journey,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium was found"),
]

HOST = """
import django; django.setup()
from switcher.models import Host
from switcher.records import config
from switcher.audit.ledger import SERVER
config.save_host(Host(name="{0}", base_url="http://127.0.0.1:9/{0}"), SERVER)
"""
# In another process: the server learns of it only from the database.
SWITCH = """
import django; django.setup()
from switcher.models import Host
from switcher.records import switches
from switcher.audit.ledger import Actor
from switcher.domain.specs import Spec
host = Host.objects.get(name="north-1")
spec = Spec(profile="", tag="{0}", keep_alive="30m")
row, _ = switches.open_switch(switches.ResolvedRequest(host, spec), Actor("anna", "command"))
print(row.pk)
"""
CANCEL = """
import django; django.setup()
from switcher.records import claimed_switch, leases, switches
from switcher.domain.states import State
held = claimed_switch.claim({0}, leases.take(switches.host_of({0}), "test"))
held.end(State.CANCELLED, outcome="Nothing was touched.")
leases.give_back(held.host_id, held.fence)
"""

# Chromium itself logs these when a server is away; no page can prevent it.
NETWORK = ("net::ERR_", "WebSocket connection to", "Failed to load resource")


class Proxy:
    """Forwards TCP connections to a port until `freeze` silences the open ones."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.frozen: set[int] = set()
        self.made = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    def freeze(self) -> None:
        """Silence the open connections. New ones work."""
        self.frozen |= set(range(self.made + 1))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        async def start() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
            self._ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()
        self._server.close()
        # A connection accepted just before starts its task only now.
        self._loop.run_until_complete(asyncio.sleep(0))
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        number = self.made
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        pumps = self._pump(number, reader, back), self._pump(number, there, writer)
        try:
            await asyncio.gather(*pumps)
        except asyncio.CancelledError:
            pass  # the test has ended

    async def _pump(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await reader.read(65536):
                if number in self.frozen:
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Make a database with one host and a signed-in admin; return the session key."""
    folder = tmp_path_factory.mktemp("journey") / "data"
    key = seed(folder)
    run(folder, HOST.format("north-1"))
    return folder, key


@pytest.fixture
def data(template: tuple[Path, str], tmp_path: Path) -> Path:
    return copy(template[0], tmp_path / "data")


@pytest.fixture
def open_page(browser: Browser, template: tuple[Path, str]) -> Iterator[Callable[..., Page]]:
    """Open a page as the admin. Fail at the end if it logged an error."""
    contexts, complaints = [], []

    def go(port: int, path: str = "/") -> Page:
        context = browser.new_context()
        context.add_cookies(
            [{"name": "session_id", "value": template[1], "url": f"http://127.0.0.1:{port}"}]
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )
        page.goto(f"http://127.0.0.1:{port}{path}")
        return page

    yield go
    for context in contexts:
        context.close()
    ours = [text for text in complaints if not any(part in text for part in NETWORK)]
    assert ours == []


def run(data: Path, program: str) -> str:
    done = python("-c", program, data=data)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def is_live(page: Page) -> None:
    expect(page.locator("#live-state")).to_have_attribute("data-state", "on")


def is_lost(page: Page) -> None:
    expect(page.locator("#live-state")).to_have_attribute("data-state", "lost")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as line:
        return int(line.getsockname()[1])


def test_a_switch_appears_and_ends_without_a_reload(
    data: Path, open_page: Callable[..., Page]
) -> None:
    with Process(data, "--no-worker") as server:
        page = open_page(server.port)
        is_live(page)
        number = run(data, SWITCH.format("mid-b:latest"))
        panel = page.locator(f"#switch-{number}")
        expect(panel).to_contain_text("Switching north-1")
        expect(panel.locator("button")).to_contain_text("Cancel")
        expect(page.locator("#announcer")).to_contain_text("switch to mid-b requested by anna")
        expect(page.locator("#host-north-1-state")).to_contain_text("Queued")
        expect(page.locator("#recent-switches")).to_contain_text("mid-b")
        run(data, CANCEL.format(number))
        expect(panel).to_have_attribute("data-state", "none")
        expect(panel).to_contain_text("Nothing was touched.")
        expect(page.locator(f"[id=switch-{number}]")).to_have_count(1)


def test_fragments_for_other_pages_are_no_errors(
    data: Path, open_page: Callable[..., Page]
) -> None:
    """A fragment whose element is not on the page is no error; the fixture checks the console."""
    with Process(data, "--no-worker") as server:
        page = open_page(server.port, "/hosts/")
        is_live(page)
        run(data, SWITCH.format("mid-b:latest"))
        expect(page.locator("#host-north-1-state")).to_contain_text("Queued")


@pytest.mark.parametrize("path", ["/hosts/north-1/", "/switches/"])
def test_other_pages_are_live_too(path: str, data: Path, open_page: Callable[..., Page]) -> None:
    with Process(data, "--no-worker") as server:
        page = open_page(server.port, path)
        is_live(page)
        run(data, SWITCH.format("mid-b:latest"))
        expect(page.locator("#recent-switches, #new-switches").first).to_contain_text(
            "mid-b" if "hosts" in path else "1 new switch"
        )


def test_a_new_host_gets_its_row(data: Path, open_page: Callable[..., Page]) -> None:
    with Process(data, "--no-worker") as server:
        page = open_page(server.port)
        is_live(page)
        run(data, HOST.format("south-1"))
        expect(page.locator("#h-south-1")).to_contain_text("south-1")


def test_pushes_never_move_the_focus(data: Path, open_page: Callable[..., Page]) -> None:
    with Process(data, "--no-worker") as server:
        number = run(data, SWITCH.format("mid-b:latest"))
        page = open_page(server.port)
        is_live(page)
        page.locator(f"#recent-{number}-go").focus()
        run(data, CANCEL.format(number))
        expect(page.locator("#recent-switches")).to_contain_text("cancelled")
        assert page.evaluate("document.activeElement.id") == f"recent-{number}-go"


def test_after_a_restart_the_newest_state_is_shown(
    data: Path, open_page: Callable[..., Page]
) -> None:
    port = free_port()
    with Process(data, "--no-worker", port=port) as server:
        page = open_page(port)
        is_live(page)
        assert server.end() == 0
    is_lost(page)
    number = run(data, SWITCH.format("mid-b:latest"))
    with Process(data, "--no-worker", port=port):
        is_live(page)
        expect(page.locator(f"#switch-{number}")).to_contain_text("mid-b")
        expect(page.locator("#host-north-1-state")).to_contain_text("Queued")
        expect(page.locator(f"#switch-{number} button")).to_contain_text("Cancel")


def test_a_switch_that_ended_while_the_page_was_offline_is_shown(
    data: Path, open_page: Callable[..., Page]
) -> None:
    port = free_port()
    number = run(data, SWITCH.format("mid-b:latest"))
    with Process(data, "--no-worker", port=port) as server:
        page = open_page(port)
        is_live(page)
        assert server.end() == 0
    run(data, CANCEL.format(number))
    with Process(data, "--no-worker", port=port):
        is_live(page)
        expect(page.locator(f"#switch-{number}")).to_have_attribute("data-state", "none")


def test_a_black_hole_heals(data: Path, open_page: Callable[..., Page]) -> None:
    with Process(data, "--no-worker") as server:
        proxy = Proxy(server.port)
        try:
            page = open_page(proxy.port)
            is_live(page)
            proxy.freeze()
            number = run(data, SWITCH.format("mid-b:latest"))
            expect(page.locator(f"#switch-{number}")).to_contain_text("mid-b")
            is_live(page)
            page.close()  # before the server stops, since it may still be reading
        finally:
            proxy.close()


def test_a_frozen_server_is_noticed_and_heals(data: Path, open_page: Callable[..., Page]) -> None:
    with Process(data, "--no-worker") as server:
        page = open_page(server.port)
        is_live(page)
        server.popen.send_signal(signal.SIGSTOP)
        number = run(data, SWITCH.format("mid-b:latest"))
        is_lost(page)
        notice = page.locator("#live-lost")
        expect(notice).to_contain_text("Live updates stopped at")
        expect(notice.locator("a")).to_have_text("Reload")
        server.popen.send_signal(signal.SIGCONT)
        is_live(page)
        expect(page.locator(f"#switch-{number}")).to_contain_text("mid-b")
        expect(notice).to_have_count(0)
        page.close()  # before the server stops, since it may still be reading


def test_a_page_whose_session_ended_goes_to_the_login_page(
    data: Path, open_page: Callable[..., Page]
) -> None:
    port = free_port()
    with Process(data, "--no-worker", port=port) as server:
        page = open_page(port)
        is_live(page)
        assert server.end() == 0
    run(
        data,
        "import django; django.setup()\n"
        "from django.contrib.sessions.models import Session; Session.objects.all().delete()",
    )
    with Process(data, "--no-worker", port=port):
        page.wait_for_url("**/login/?next=%2F")


def test_without_a_socket_the_page_reloads(data: Path, open_page: Callable[..., Page]) -> None:
    """Behind a proxy without WebSockets, the page reloads after 30 s and then every 15 s."""
    with Process(data, "--no-worker") as server:
        number = ""
        page = open_page(server.port, "/login/")  # a page without live updates, to set things up
        page.add_init_script(
            "window.WebSocket = class { constructor() { this.readyState = 3;"
            " setTimeout(() => this.onclose({ code: 1006 }), 5); } close() {} };"
        )
        page.goto(f"http://127.0.0.1:{server.port}/")
        is_lost(page)
        number = run(data, SWITCH.format("mid-b:latest"))
        expect(page.locator(f"#switch-{number}")).to_contain_text("mid-b")
