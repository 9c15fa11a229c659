from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from django.core.management import call_command

from switcher.management import following
from switcher.models import Host
from switcher.records import Actor, config

ADMIN = Actor("anna", "page")


class Simulator:
    """A simulated Ollama in a process of its own."""

    def __init__(self) -> None:
        models = [p for m in ("mid-a=2GB", "mid-b=3GB", "big=9GB") for p in ("--model", m)]
        self._popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "ollama_simulator", "--port", "0"),
                *("--vram", "10GB", "--load-rate", "50GB", *models),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        self.url = line[line.index("http://") :].strip()

    def fault(self, **fault: Any) -> None:
        requests.post(f"{self.url}/_sim/faults", json=fault, timeout=5).raise_for_status()

    def resident(self) -> list[str]:
        rows = requests.get(f"{self.url}/api/ps", timeout=5).json()["models"]
        return sorted(row["name"] for row in rows)

    def stop(self) -> None:
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdout is not None
        self._popen.stdout.close()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    made = Simulator()
    yield made
    made.stop()


@pytest.fixture
def host(transactional_db: None, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return the default host, on the simulator. No server runs: commands are their own workers."""
    monkeypatch.setattr(following, "CLAIM_INTERVAL_S", 0.02)
    host_id = config.put_host(
        {"name": "tower", "base_url": simulator.url, "vram_bytes": 10_000_000_000}, ADMIN
    )
    return Host.objects.get(pk=host_id)


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run(*args: str, terminal: bool = False) -> Ran:
    """Run a command as from the shell, but in this process."""
    out, err = Terminal() if terminal else io.StringIO(), io.StringIO()
    code = 0
    try:
        call_command(*args, stdout=out, stderr=err)
    except SystemExit as exc:
        code = int(exc.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())
