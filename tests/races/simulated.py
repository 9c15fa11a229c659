"""A simulated Ollama over real HTTP, in a thread of this process."""

from __future__ import annotations

import argparse
import asyncio
import threading
from typing import Any

import requests

from ollama_simulator.command import add_arguments, make_host
from ollama_simulator.serving import Listener

MODELS = ("mid-a=4GB", "mid-b=4GB", "big=8GB")


class Simulated:
    """10 GB of VRAM: mid-a and mid-b fit beside each other, big beside none. A context manager."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        disk = [part for model in MODELS for part in ("--model", model)]
        options = parser.parse_args(["--vram", "10GB", "--load-rate", "50GB", *disk])
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="simulated-ollama", daemon=True)
        self.url = ""

    def __enter__(self) -> Simulated:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        listener = Listener(make_host(self._options), "127.0.0.1")
        await listener.start(0)
        self.url = f"http://127.0.0.1:{listener.port}"
        self._ready.set()
        await self._stop.wait()
        await listener.stop()

    def fault(self, **fault: Any) -> None:
        requests.post(f"{self.url}/_sim/faults", json=fault, timeout=10).raise_for_status()

    def clear_faults(self) -> None:
        requests.delete(f"{self.url}/_sim/faults", timeout=10).raise_for_status()

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.url}/_sim/state", timeout=10).json()
        return found

    def resident(self) -> dict[str, str]:
        """Digests of what `/api/ps` lists, by name without `:latest`."""
        rows = requests.get(f"{self.url}/api/ps", timeout=10).json()["models"]
        return {r["name"].removesuffix(":latest"): r["digest"] for r in rows}

    def loads(self, tag: str) -> int:
        """How often a model was loaded."""
        return int(self.state()["loads"].get(f"{tag}:latest", 0))

    def is_loading(self, tag: str) -> bool:
        return str(self.state()["loading"] or "").removesuffix(":latest") == tag

    def writes(self) -> list[str]:
        """Every call that can change what it holds."""
        journal = self.state()["journal"]
        return [r["path"] for r in journal if r["what"] == "call" and r["method"] != "GET"]
