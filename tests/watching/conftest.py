"""A simulated Ollama over real HTTP, with a host of ours that is watched for real."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from switcher.audit.ledger import Actor
from switcher.domain.drift import Kind
from switcher.domain.states import State
from switcher.models import Drift, Host, ModelProfile, SwitchEvent
from switcher.records import config
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import Worker, run_once
from switcher.watching.loop import Watcher
from tests.until import until

ANNA = Actor("anna", "page")
# 5 s are promised, and kept by reading each 2.5 s (tests/watching/test_loop.py). A machine that is
# busy with other tests is given more.
NAMED_S = 20.0


class Simulator:
    """A simulated Ollama in a process of its own."""

    def __init__(self) -> None:
        disk = ("mid-a=4GB", "mid-b=4GB", "other=1GB", "embed=1GB,embed")
        models = [part for model in disk for part in ("--model", model)]
        self._popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "ollama_simulator", "--port", "0"),
                *("--vram", "24GB", "--load-rate", "50GB", *models),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        self.url = line[line.index("http://") :].strip()

    def stop(self) -> None:
        self._popen.kill()
        self._popen.wait(10)
        assert self._popen.stdout is not None
        self._popen.stdout.close()

    def act(self, act: str, **fields: Any) -> None:
        self._post("/_sim/acts", act=act, **fields)

    def fault(self, **fault: Any) -> None:
        self._post("/_sim/faults", **fault)

    def load(self, tag: str, **body: Any) -> None:
        """What some client does behind our back."""
        self._post("/api/generate", model=tag, prompt="", **body)

    def delete(self, tag: str) -> None:
        url = f"{self.url}/api/delete"
        requests.delete(url, json={"model": tag}, timeout=5).raise_for_status()

    def _post(self, path: str, **body: Any) -> None:
        requests.post(self.url + path, json=body, timeout=10).raise_for_status()

    def resident(self) -> dict[str, Any]:
        """Rows of `/api/ps` by name, without `:latest`."""
        rows = requests.get(f"{self.url}/api/ps", timeout=5).json()["models"]
        return {row["name"].removesuffix(":latest"): row for row in rows}

    def touched(self) -> list[dict[str, Any]]:
        """Every call that can change what it holds."""
        journal = requests.get(f"{self.url}/_sim/state", timeout=5).json()["journal"]
        return [r for r in journal if r["what"] == "call" and r["method"] != "GET"]


@pytest.fixture
def ollama() -> Iterator[Simulator]:
    made = Simulator()
    yield made
    made.stop()


class Watched:
    """A host, its server, and words for what tests do with them."""

    def __init__(self, host: Host, ollama: Simulator) -> None:
        self.host = host
        self.ollama = ollama

    def set(self, **values: Any) -> None:
        config.put_host(values, ANNA, self.host.pk)
        self.host.refresh_from_db()

    def profile(self, tag: str, **values: Any) -> ModelProfile:
        return config.save_profile(ModelProfile(name=tag, tag=tag, **values), ANNA)

    def pin(self, *profiles: ModelProfile) -> None:
        config.set_pinned(self.host, list(profiles), ANNA)

    def switch(self, tag: str, **values: Any) -> SwitchEvent:
        """To a model, by an admin, to its end."""
        row, _ = request_switch(SwitchRequest(model=tag, host="north-1", **values), ANNA)
        run_once(row.pk)
        until(lambda: SwitchEvent.objects.get(pk=row.pk).ended_at is not None)
        row.refresh_from_db()
        assert row.state == State.ACTIVE.value, row.error
        self.host.refresh_from_db()
        return row

    def settled(self) -> None:
        """The watcher has read and judged it: nothing is amiss."""
        from switcher.watching.loop import latest

        until(lambda: latest().get(self.host.pk) is not None)
        at = latest()[self.host.pk].at
        until(lambda: latest()[self.host.pk].at > at)
        until(lambda: not Drift.objects.filter(ended_at=None).exists())

    def named(self, kind: Kind, model: str = "", within_s: float = NAMED_S) -> Drift:
        """Wait until this drift is named."""
        rows = Drift.objects.filter(host=self.host, kind=kind.value, ended_at=None, model=model)
        until(rows.exists, within_s)
        return rows.get()

    def repairs(self) -> list[SwitchEvent]:
        return list(SwitchEvent.objects.filter(host=self.host, source="watcher").order_by("id"))


@pytest.fixture
def watched(transactional_db: None, ollama: Simulator) -> Watched:
    row = Host(name="north-1", base_url=ollama.url, vram_bytes=24_000_000_000)
    return Watched(config.save_host(row, ANNA), ollama)


@pytest.fixture
def watcher(watched: Watched) -> Iterator[Watcher]:
    made = Watcher(seed=1)
    made.start()
    yield made
    made.stop()
    for thread in (*made._threads, *made._acts.threads):
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def worker(watched: Watched) -> Iterator[Worker]:
    made = Worker()
    made.start()
    yield made
    made.stop(5.0)
    assert made._loop.stop(10)
