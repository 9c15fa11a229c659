"""A simulated Ollama over real HTTP, with a host of ours that is watched for real."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from switcher.audit.ledger import Actor
from switcher.domain.drift import Kind
from switcher.domain.states import State
from switcher.models import Drift, Host, ModelProfile, SwitchEvent
from switcher.records import config
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import Worker, run_once
from switcher.watching.loop import Watcher
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S, until

ANNA = Actor("anna", "page")


@pytest.fixture
def ollama() -> Iterator[SimulatedOllama]:
    models = ("mid-a=4GB", "mid-b=4GB", "other=1GB", "embed=1GB,embed")
    with SimulatedOllama(*models, load_rate="50GB") as made:
        yield made


class Watched:
    """A host, its server, and words for what tests do with them."""

    def __init__(self, host: Host, ollama: SimulatedOllama) -> None:
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

    def named(self, kind: Kind, model: str = "") -> Drift:
        """Wait until this drift is named."""
        rows = Drift.objects.filter(host=self.host, kind=kind.value, ended_at=None, model=model)
        until(rows.exists)
        return rows.get()

    def repairs(self) -> list[SwitchEvent]:
        return list(SwitchEvent.objects.filter(host=self.host, source="watcher").order_by("id"))


@pytest.fixture
def watched(transactional_db: None, ollama: SimulatedOllama) -> Watched:
    row = Host(name="north-1", base_url=ollama.url, vram_bytes=24_000_000_000)
    return Watched(config.save_host(row, ANNA), ollama)


@pytest.fixture
def watcher(watched: Watched) -> Iterator[Watcher]:
    made = Watcher(seed=1, quiet_s=0.5)
    made.start()
    yield made
    assert made.stop(PATIENCE_S)


@pytest.fixture
def worker(watched: Watched) -> Iterator[Worker]:
    made = Worker()
    made.start()
    yield made
    made.stop(5.0)
    assert made._loop.stop(PATIENCE_S)
