"""The recordings of a real server, made again with the server under contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.record import FOLDER, run, scenarios
from tests.contract.server import Ollama


def outline(exchange: dict[str, Any], known: dict[str, int], names: dict[str, str]) -> Any:
    """Return what does not depend on the content of the models: digests are numbered as they
    come."""
    response = exchange["response"]
    body = response.get("json", {})
    rows = [
        (names.get(row["name"], row["name"]), known.setdefault(row["digest"], len(known)))
        for row in body.get("models", ())
    ]
    model = names.get(f"{body.get('model')}:latest", body.get("model"))
    said = (model, body.get("done_reason"), body.get("error"), body.get("status"))
    return exchange["label"], response["status"], response["content_type"], said, rows


def outlines(exchanges: list[dict[str, Any]], names: dict[str, str]) -> list[Any]:
    known: dict[str, int] = {}
    return [outline(exchange, known, names) for exchange in exchanges]


@pytest.mark.fact(21, 23, 24)
@pytest.mark.parametrize("name", sorted(scenarios("small-a", "small-b")))
def test_the_server_still_does_what_was_recorded(ollama: Ollama, name: str) -> None:
    recorded = json.loads((FOLDER / f"{name}.json").read_text())["exchanges"]
    a, b = ollama.models.small_a, ollama.models.small_b
    found = run(ollama.url, scenarios(a, b)[name])
    theirs = {"small-a:latest": "a", "small-b:latest": "b"}
    ours = {f"{a}:latest": "a", f"{b}:latest": "b"}
    assert outlines(found, ours) == outlines(recorded, theirs)
