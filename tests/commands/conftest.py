from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.core.management import call_command

from switcher.management import following
from switcher.models import Host
from switcher.records import Actor, config
from tests.simulated import SimulatedOllama

ADMIN = Actor("anna", "page")


@pytest.fixture
def simulator() -> Iterator[SimulatedOllama]:
    models = ("mid-a=2GB", "mid-b=3GB", "big=9GB")
    with SimulatedOllama(*models, vram="10GB", load_rate="50GB") as made:
        yield made


@pytest.fixture
def host(
    transactional_db: None, simulator: SimulatedOllama, monkeypatch: pytest.MonkeyPatch
) -> Host:
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
