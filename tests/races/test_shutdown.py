"""Who waits for a switch when the server is stopped gets an answer, not a cut connection."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.journeys.product import Process, seed, sign_in, simulated_host
from tests.until import PATIENCE_S, until


def test_who_waits_for_a_switch_is_told_where_to_ask_when_the_server_stops(tmp_path: Path) -> None:
    data, answers = tmp_path / "data", []
    with simulated_host() as host:
        seed(data, host.url, "http://127.0.0.1:9")
        host.fault(kind="slow_load", tag="mid-b", factor=100_000)
        with Process(data) as server:
            session, address = sign_in(server.address), server.address

            def wait(path: str, body: dict[str, Any]) -> None:
                answers.append(session.post(address + path, json=body, timeout=PATIENCE_S))

            body = {"model": "mid-b", "strategy": "swap"}
            waiting = threading.Thread(target=wait, args=("/ollama/models/switch", body))
            waiting.start()
            until(lambda: session.get(f"{address}/ollama/switches").json()["switches"])
            assert server.end() == 0
            waiting.join(PATIENCE_S)
        (answer,) = answers
        assert answer.status_code == 202
        told = answer.json()
        assert answer.headers["Location"] == told["event"]["url"]
        assert told["accepted"] is True
        assert told["state"] in ("checking", "unloading", "loading")
        host.clear_faults()
        with Process(data) as server:
            session = sign_in(server.address)
            url = f"{server.address}{told['event']['url']}"
            until(lambda: session.get(url, timeout=PATIENCE_S).json()["ended"])
            assert session.get(url, timeout=PATIENCE_S).json()["state"] == "rolled_back"
