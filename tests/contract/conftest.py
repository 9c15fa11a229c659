"""Runs the same expectations against a real server and the simulator.

With SWITCHER_REAL_OLLAMA set (http://127.0.0.1:11434), the tests use that real server with the
models in SWITCHER_REAL_MODELS: two larger ones, two small ones, one for embeddings; all are
unloaded. Otherwise a simulator is started. SWITCHER_REAL_LIMITED may name a second real server,
started with OLLAMA_MAX_LOADED_MODELS=1 and OLLAMA_MAX_QUEUE=1 and the same models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.contract.server import Models, Ollama, simulator

MODELS = os.environ.get("SWITCHER_REAL_MODELS", "mid-a,mid-b,tiny-a,tiny-b,embed")


@pytest.fixture(scope="session")
def models() -> Models:
    return Models(*MODELS.split(","))


@pytest.fixture(scope="session")
def server(models: Models) -> Iterator[Ollama]:
    real = os.environ.get("SWITCHER_REAL_OLLAMA", "").rstrip("/")
    if not real:
        with simulator(models) as made:
            yield made
        return
    found = Ollama(real, models, simulated=False)
    yield found
    found.close()


@pytest.fixture
def ollama(server: Ollama) -> Iterator[Ollama]:
    """Yield the server with nothing loaded, and unload everything afterwards."""
    server.clean()
    yield server
    server.clean()


@pytest.fixture
def faulty(ollama: Ollama) -> Ollama:
    """Return a server that supports faults."""
    if not ollama.simulated:
        pytest.skip("needs a fault, which a real server cannot produce on demand")
    return ollama


@pytest.fixture
def started(server: Ollama) -> Iterator[Callable[..., Ollama]]:
    """Yield a function that starts a server with its own flags and limits of one."""
    limited = os.environ.get("SWITCHER_REAL_LIMITED", "").rstrip("/")
    if server.simulated:
        with ExitStack() as stack:
            yield lambda *flags: stack.enter_context(simulator(server.models, *flags))
    elif limited:
        found = Ollama(limited, server.models, simulated=False)
        found.clean()
        yield lambda *flags: found
        found.clean()
        found.close()
    else:
        pytest.skip("needs a server that is started with its own limits")
