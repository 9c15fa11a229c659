"""What in a client's request makes the server reload the model, found by trying every field.

A newer server may compare more than we know of. With SWITCHER_REAL_SOURCE, the names of all fields
are read from that server's source or binary.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ollama_simulator
from switcher.gateway.body import NEVER_FORWARDED, RELOADING_OPTIONS
from tests.contract.server import Ollama

TAG = re.compile(rb'json:\\?"([a-z][a-z0-9_]{1,40})[",\\]')
WORD = re.compile(rb'"([a-z][a-z_]{1,40})"')
OWN_MINUTES = 77  # a reload forgets it (fact 12)
BASE = {"model", "prompt", "options", "keep_alive"}
VALUES = (False, True, 1)
POLICY = NEVER_FORWARDED | {f"options.{name}" for name in RELOADING_OPTIONS}


def field_names() -> list[str]:
    """Return the names of all fields that the server might read from a body."""
    source = os.environ.get("SWITCHER_REAL_SOURCE")
    if source:
        found = TAG.findall(Path(source).read_bytes())
    else:
        files = sorted(Path(ollama_simulator.__file__).parent.glob("*.py"))
        found = [name for file in files for name in WORD.findall(file.read_bytes())]
    return sorted({name.decode() for name in found} - BASE)


class Trial:
    """Requests with many fields at once, on a loaded model."""

    def __init__(self, ollama: Ollama) -> None:
        self.ollama, self.model = ollama, ollama.models.small_a
        self.load()

    def load(self) -> None:
        self.ollama.load(self.model, keep_alive=f"{OWN_MINUTES}m")

    def guilty(self, names: list[str], place: str, value: object) -> Iterator[str]:
        """Yield those of these fields that reload the model with this value."""
        status, reloaded = self.ask(names, place, value)
        if status == 200 and not reloaded:
            return
        if len(names) == 1:
            if reloaded:
                yield f"{place}{names[0]}"
            return
        middle = len(names) // 2
        yield from self.guilty(names[:middle], place, value)
        yield from self.guilty(names[middle:], place, value)

    def ask(self, names: list[str], place: str, value: object) -> tuple[int, bool]:
        fields = dict.fromkeys(names, value)
        options = {"num_predict": 1, **(fields if place else {})}
        body: dict[str, object] = {} if place else {**fields}
        body |= {"model": self.model, "prompt": "Hello", "stream": False, "options": options}
        answer = self.ollama.call("POST", "/api/generate", json.dumps(body))
        rows = [row for row in self.ollama.ps() if row["name"].startswith(self.model)]
        reloaded = not rows or self.ollama.minutes_left(self.model) < OWN_MINUTES - 2
        if reloaded:
            self.load()
        return answer.status_code, reloaded


@pytest.mark.fact(12)
def test_the_gateway_knows_every_field_that_reloads_the_model(ollama: Ollama) -> None:
    """Fact 12."""
    trial = Trial(ollama)
    names = field_names()
    assert {"shift", "num_ctx", "temperature"} <= set(names)
    found = {
        field
        for place in ("", "options.")
        for value in VALUES
        for field in trial.guilty(names, place, value)
    }
    assert "options.num_ctx" in found
    assert found <= POLICY, f"the gateway passes on {found - POLICY}"
    if ollama.simulated:
        assert {"shift", "options.num_thread", "options.draft_num_predict"} <= found
