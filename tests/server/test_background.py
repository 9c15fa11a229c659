"""The background work: its start and end, and how other servers than daphne start it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.testing import ApplicationCommunicator

import project.asgi
from project.background import Background, Part, assemble
from switcher.gateway.addresses import is_gateway_path
from tests.until import PATIENCE_S


class Fake:
    """A part that records its calls; stopping it takes as long as a test sets."""

    def __init__(self, name: str, log: list[str], fails: bool = False) -> None:
        self.name = name
        self.log = log
        self.fails = fails
        self.may_end = threading.Event()

    def start(self) -> None:
        self.log.append(f"start {self.name}")

    def stop(self) -> None:
        self.log.append(f"stop {self.name}")
        if self.fails:
            raise ConnectionError("the database is away")
        self.may_end.wait(PATIENCE_S)

    def part(self) -> Part:
        return Part(self.name, self.start, self.stop)


async def test_parts_start_in_order_and_stop_together() -> None:
    log: list[str] = []
    a, b = Fake("a", log), Fake("b", log)
    background = Background([a.part(), b.part()])
    background.start()
    assert log == ["start a", "start b"]
    stopping = asyncio.create_task(background.stop(PATIENCE_S))
    async with asyncio.timeout(PATIENCE_S):
        while len(log) < 4:
            await asyncio.sleep(0)
    assert sorted(log[2:]) == ["stop a", "stop b"]
    a.may_end.set()
    b.may_end.set()
    assert await stopping


async def test_a_part_that_does_not_stop_is_waited_for_only_so_long() -> None:
    slow = Fake("slow", [])
    background = Background([slow.part()])
    background.start()
    assert not await background.stop(0.05)
    assert not slow.may_end.is_set()
    slow.may_end.set()
    assert await background.stop(PATIENCE_S)
    assert slow.log == ["start slow", "stop slow"]


async def test_a_part_that_fails_to_stop_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    background = Background([Fake("bad", [], fails=True).part()])
    background.start()
    assert await background.stop(PATIENCE_S)
    assert "the bad failed to stop" in caplog.text


def test_the_worker_can_be_left_out() -> None:
    parts = [part.name for part in assemble()]
    assert parts[-1] == "worker"
    assert [part.name for part in assemble(worker=False)] == parts[:-1]


async def test_under_other_servers_the_parts_run_as_long_as_the_lifespan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Fake("fake", [])
    fake.may_end.set()
    monkeypatch.setattr(project.asgi, "assemble", lambda: [fake.part()])
    server = ApplicationCommunicator(project.asgi.application, {"type": "lifespan"})
    await server.send_input({"type": "lifespan.startup"})
    assert (await server.receive_output(PATIENCE_S))["type"] == "lifespan.startup.complete"
    assert fake.log == ["start fake"]
    await server.send_input({"type": "lifespan.shutdown"})
    assert (await server.receive_output(PATIENCE_S))["type"] == "lifespan.shutdown.complete"
    assert fake.log == ["start fake", "stop fake"]


async def test_a_part_that_fails_to_start_fails_the_lifespan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise ConnectionError("no database")

    part = Part("bad", fail, lambda: None)
    monkeypatch.setattr(project.asgi, "assemble", lambda: [part])
    server = ApplicationCommunicator(project.asgi.application, {"type": "lifespan"})
    await server.send_input({"type": "lifespan.startup"})
    answer = await server.receive_output(PATIENCE_S)
    assert answer == {"type": "lifespan.startup.failed", "message": "no database"}


@pytest.mark.parametrize(
    ("path", "theirs"),
    [
        ("/chat/completions", True),
        ("/v1/chat/completions", True),
        ("/v1/models", True),
        ("/v1", True),
        ("/api/chat", True),
        ("/api/nothing", True),
        ("/api/docs", False),
        ("/api/openapi.json", False),
        ("/apis", False),
        ("/", False),
        ("/ollama/models", False),
    ],
)
def test_the_gateway_serves_its_own_paths(path: str, theirs: bool) -> None:
    assert is_gateway_path(path) is theirs
