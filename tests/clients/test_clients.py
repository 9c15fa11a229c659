"""Clients that people use against the whole product, also while the model is swapped.

They run in a Python of their own, which `script/clients` makes: their packages do not agree with
each other's versions here. Without it these tests are left out.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.calls import CALLS
from tests.server.process import Process, python
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S, until

PYTHON = os.environ.get("SWITCHER_CLIENTS_PYTHON", "")
if not PYTHON:
    pytest.skip("run script/clients", allow_module_level=True)

SEED = """
import django, sys
django.setup()
from django.core.management import call_command
from switcher.audit.ledger import SERVER
from switcher.models import Host, ModelProfile
from switcher.records import config, keys
from switcher.records.keys import NewKey
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import run_once
call_command("migrate", verbosity=0)
host = config.save_host(Host(name="tower", base_url=sys.argv[1], vram_bytes=24 * 10**9), SERVER)
row, _ = request_switch(SwitchRequest(model="mid-a", host="tower"), SERVER)
assert run_once(row.pk)
profile = config.save_profile(ModelProfile(name="embed", tag="embed"), SERVER)
config.set_pinned(host, [profile], SERVER)
print(keys.make_key(NewKey("tests", may_switch=True), SERVER)[1])
"""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server's address, and a key."""
    data: Path = tmp_path_factory.mktemp("clients") / "data"
    data.mkdir(mode=0o700)
    models = ("mid-a=2GB", "mid-b=10GB", "embed=100MB,embed")
    with SimulatedOllama(*models, load_rate="1GB", tokens_per_s=500) as ollama:
        seeded = python("-c", SEED, ollama.url, data=data)
        assert seeded.returncode == 0, seeded.stderr
        with Process(data) as server:
            yield server.address, seeded.stdout.split()[-1]
            assert "Traceback" not in server.output


def start(name: str, address: str, key: str) -> subprocess.Popen[str]:
    """Start a client in a process of its own; each line that it prints is a round of its calls."""
    return subprocess.Popen(
        [PYTHON, str(Path(__file__).with_name("calls.py")), name, address, key],
        env={"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def next_round(client: subprocess.Popen[str]) -> list[Any]:
    """Return what the next round of calls brought; fail if there is none."""
    assert client.stdout is not None
    for line in client.stdout:
        if line.startswith("["):
            found: list[Any] = json.loads(line)
            return found
    pytest.fail(f"the client ended with code {client.wait(PATIENCE_S)}")


@pytest.fixture(scope="module")
def clients(product: tuple[str, str]) -> Iterator[Clients]:
    """The clients that run, each after its first round: most of their time is spent on imports."""
    with ExitStack() as stack:
        yield Clients(product, stack)


class Clients(dict[str, subprocess.Popen[str]]):
    """Clients by name, started when they are first asked for."""

    def __init__(self, product: tuple[str, str], stack: ExitStack) -> None:
        super().__init__()
        self._product, self._stack = product, stack

    def __missing__(self, name: str) -> subprocess.Popen[str]:
        self[name] = self._stack.enter_context(start(name, *self._product))
        found = next_round(self[name])
        assert all(found), (name, found)
        return self[name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CALLS)
def test_its_calls_are_answered(clients: Clients, name: str) -> None:
    assert clients[name].poll() is None


@pytest.mark.timeout(900)
def test_none_of_them_loses_a_call_in_a_swap(product: tuple[str, str], clients: Clients) -> None:
    address, key = product
    headers = {"Authorization": f"Bearer {key}"}

    def state() -> str:
        return str(requests.get(url, headers=headers, timeout=PATIENCE_S).json()["state"])

    running = {name: clients[name] for name in CALLS}
    wanted = {"model": "mid-b", "strategy": "swap", "wait": False}
    switch = f"{address}/ollama/models/switch"
    accepted = requests.post(switch, json=wanted, headers=headers, timeout=PATIENCE_S)
    assert accepted.status_code == 202, accepted.text
    url = address + accepted.headers["location"]
    until(lambda: state() in {"unloading", "loading"}, 60, "a closed gate")
    for client in running.values():
        assert client.stdin is not None
        client.stdin.write("again\n")
        client.stdin.flush()
    found = {name: next_round(client) for name, client in running.items()}
    assert state() == "active"
    for name, texts in found.items():
        assert all(texts), (name, texts)
        assert "[mid-b]" in str(texts), (name, texts)  # held, and then answered by the new model
