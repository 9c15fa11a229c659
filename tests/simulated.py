"""A simulated Ollama over real HTTP, in a thread of the test process."""

from __future__ import annotations

import argparse
import asyncio
import threading
from typing import Any

import requests

from ollama_simulator.command import add_arguments, make_host
from ollama_simulator.serving import Listener
from tests.until import PATIENCE_S


class SimulatedOllama:
    """A simulator on a free port during the block, with these models (`mid-a=4GB`) installed.

    Options are those of the simulator's command line: `vram="10GB"`, `tokens_per_s=500`.
    """

    def __init__(self, *models: str, **options: object) -> None:
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        words += [f"--model={model}" for model in models]
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        self._host = make_host(parser.parse_args(words))
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="simulated-ollama", daemon=True)
        self.url = ""

    def __enter__(self) -> SimulatedOllama:
        self._thread.start()
        assert self._listening.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        listener = Listener(self._host, "127.0.0.1")
        await listener.start(0)
        self.url = f"http://127.0.0.1:{listener.port}"
        self._listening.set()
        await self._stop.wait()
        await listener.stop()

    # -- events

    def fault(self, **fault: Any) -> None:
        self.post("/_sim/faults", **fault)

    def clear_faults(self) -> None:
        requests.delete(f"{self.url}/_sim/faults", timeout=PATIENCE_S).raise_for_status()

    def act(self, act: str, **fields: Any) -> None:
        self.post("/_sim/acts", act=act, **fields)

    def load(self, tag: str, **body: Any) -> None:
        """Load a model as somebody else's client would."""
        self.post("/api/generate", model=tag, prompt="", **body)

    def delete(self, tag: str) -> None:
        requests.delete(
            f"{self.url}/api/delete", json={"model": tag}, timeout=10
        ).raise_for_status()

    def post(self, path: str, /, **body: Any) -> None:
        requests.post(self.url + path, json=body, timeout=PATIENCE_S).raise_for_status()

    # -- state

    def _get(self, path: str) -> Any:
        return requests.get(self.url + path, timeout=PATIENCE_S).json()

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows of `/api/ps` by name without `:latest`."""
        return {_short(row["name"]): row for row in self._get("/api/ps")["models"]}

    def resident(self) -> set[str]:
        """Return the names of the models in memory, without `:latest`."""
        return set(self.rows())

    def digests(self) -> dict[str, str]:
        """Return the digests of the models in memory, by name."""
        return {name: row["digest"] for name, row in self.rows().items()}

    def installed(self) -> dict[str, str]:
        """Return the digests of the installed models, by name without `:latest`."""
        return {_short(row["name"]): row["digest"] for row in self._get("/api/tags")["models"]}

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self._get("/_sim/state")
        return found

    def loads(self, tag: str) -> int:
        """Return how often a model was loaded."""
        return int(self.state()["loads"].get(f"{tag}:latest", 0))

    def is_loading(self, tag: str) -> bool:
        return _short(str(self.state()["loading"] or "")) == tag

    def writes(self) -> list[str]:
        """Return the paths of all calls that could change it."""
        journal = self.state()["journal"]
        return [row["path"] for row in journal if row["what"] == "call" and row["method"] != "GET"]


def _short(name: str) -> str:
    return name.removesuffix(":latest")
