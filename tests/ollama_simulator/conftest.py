from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ollama_simulator.runner import Ask, Config
from ollama_simulator.server import Request, Server
from tests.contract.server import Models, Ollama, simulator

GB = 1_000_000_000
MODELS = Models("mid-a", "mid-b", "tiny-a", "tiny-b", "embed")


class World:
    """A server in simulated time, with shorthands for tests."""

    def __init__(self, **config: object) -> None:
        self.server = Server(Config(**{"load_rate": GB, "vram": 24 * GB, **config}))  # type: ignore[arg-type]
        for tag, size in (("a", 4 * GB), ("b", 4 * GB), ("c", 4 * GB), ("huge", 40 * GB)):
            self.server.add_model(tag, size)
        self.server.add_model("embed", GB // 10, embeds=True)

    @property
    def now(self) -> float:
        return self.server.now

    def ask(self, model: str, **more: object) -> Ask:
        """Ask for a reply, without waiting for it."""
        return self.server.submit(Request(model, **more))  # type: ignore[arg-type]

    def load(self, model: str, **more: object) -> Ask:
        """Load a model and wait until it is loaded."""
        return self.finish(self.ask(model, empty=True, **more))

    def finish(self, ask: Ask) -> Ask:
        while not ask.ended:
            at = self.server.next_event_at()
            assert at < float("inf"), f"{ask.state} for ever"
            self.server.advance(at)
        return ask

    def pass_s(self, seconds: float) -> None:
        self.server.advance(self.now + seconds)

    def names(self) -> list[str]:
        return [row.name.removesuffix(":latest") for row in self.server.ps()]

    def left_s(self, model: str) -> float:
        """Return the seconds until a model expires."""
        row = next(r for r in self.server.ps() if r.name == f"{model}:latest")
        return row.expires_at - self.now


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def make_world() -> Callable[..., World]:
    return World


@pytest.fixture(scope="session")
def simulated() -> Iterator[Ollama]:
    with simulator(MODELS) as server:
        yield server


@pytest.fixture
def ollama(simulated: Ollama) -> Iterator[Ollama]:
    """Yield a simulator over real HTTP with nothing loaded and no faults, and reset it
    afterwards.
    """
    simulated.clean()
    yield simulated
    simulated.clean()
