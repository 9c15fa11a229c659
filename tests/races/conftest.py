"""A whole product in one process: the service, a real worker, a simulated host over HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client

from switcher.audit.ledger import Actor
from switcher.domain.states import ENDED, OPEN, State, can_move
from switcher.models import AuditEntry, Host, Lease, ModelProfile, SwitchEvent
from switcher.records import config
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.worker import Worker, run_once
from tests import make
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S, until

ANNA, BEN = Actor("anna", "page"), Actor("ben", "api")


class World:
    """One host, and words for what tests do with it."""

    def __init__(self, ollama: SimulatedOllama, host: Host) -> None:
        self.ollama = ollama
        self.host = host
        self._loaded_before = ollama.state()["loads"]

    def profile(self, tag: str, **values: object) -> ModelProfile:
        return config.save_profile(ModelProfile(name=tag, tag=tag, **values), ANNA)  # type: ignore[misc]

    def ask(self, model: str, actor: Actor = ANNA, strategy: str = "", **values: str) -> int:
        """Ask for a switch; gives its number."""
        wish = SwitchRequest(model, strategy=strategy, reason=values.pop("reason", ""), **values)
        return service.request_switch(wish, actor)[0].pk

    def loads(self, tag: str) -> int:
        """How often a model was loaded in this test."""
        return self.ollama.loads(tag) - int(self._loaded_before.get(f"{tag}:latest", 0))

    def slow(self, tag: str) -> None:
        """Its load takes two hours: only a cancel ends it."""
        self.ollama.fault(kind="slow_load", tag=tag, factor=100_000)

    def until_loading(self, tag: str) -> None:
        until(lambda: self.ollama.is_loading(tag))

    def row(self, switch_id: int) -> SwitchEvent:
        return SwitchEvent.objects.get(pk=switch_id)

    def state(self, switch_id: int) -> State:
        return State(SwitchEvent.objects.values_list("state", flat=True).get(pk=switch_id))

    def ended(self, switch_id: int) -> SwitchEvent:
        """Wait for its end."""
        until(lambda: self.state(switch_id) in ENDED)
        return self.row(switch_id)

    def check_truth(self) -> None:
        """What is recorded is what the host holds, and each switch has one story with one end."""
        until(lambda: not Lease.objects.exclude(owner="").exists())
        assert not SwitchEvent.objects.filter(state__in=[s.value for s in OPEN]).exists()
        for row in SwitchEvent.objects.all():
            check_story(row)
        host = Host.objects.get(pk=self.host.pk)
        assert host.degraded == ""
        assert self.ollama.digests() == {host.active_tag: host.active_digest}
        assert (host.active_spec or {})["tag"] == host.active_tag


def check_story(row: SwitchEvent) -> None:
    """Its audit entries tell of allowed moves, of one end, and of one activation at most."""
    entries = AuditEntry.objects.filter(switch=row).order_by("pk").values_list("kind", flat=True)
    words = [kind.removeprefix("switch.") for kind in entries]
    way = [State(word) for word in words if word in set(State)]
    assert way[0] is State.QUEUED
    assert way[-1] == row.state
    assert sum(state in ENDED for state in way) == 1, way
    for left, right in itertools.pairwise(way):
        assert can_move(left, right), way
    activated = list(entries).count("host.activated")
    already = bool(row.figures.get("already_active"))
    assert activated == (row.state == State.ACTIVE and not already)
    assert row.ended_at is not None


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatedOllama]:
    """10 GB of VRAM: mid-a and mid-b fit together, big fits with neither."""
    with SimulatedOllama(
        "mid-a=4GB", "mid-b=4GB", "big=8GB", vram="10GB", load_rate="50GB"
    ) as made:
        yield made


@pytest.fixture
def world(transactional_db: None, simulated: SimulatedOllama) -> Iterator[World]:
    """mid-a is active, and alone in memory."""
    row = Host(name="north-1", base_url=simulated.url, vram_bytes=10_000_000_000)
    made = World(simulated, config.save_host(row, ANNA))
    assert run_once(made.ask("mid-a"))
    made.host.refresh_from_db()
    made.check_truth()
    yield made
    simulated.clear_faults()
    _empty(simulated)


def _empty(ollama: SimulatedOllama) -> None:
    def is_empty() -> bool:
        for name in ollama.resident():
            ollama.load(name, keep_alive=0)
        return not ollama.resident()

    until(is_empty)
    for name in ollama.installed().keys() - {"mid-a", "mid-b", "big"}:
        ollama.delete(name)


@pytest.fixture
def start(world: World) -> Iterator[Callable[[], Worker]]:
    """Starts a worker; all are stopped in the end."""
    made: list[Worker] = []

    def begin() -> Worker:
        worker = Worker()
        made.append(worker)
        worker.start()
        return worker

    yield begin
    for worker in made:
        worker.stop(5.0)
        assert worker._loop.stop(PATIENCE_S)


@pytest.fixture
def worker(start: Callable[[], Worker]) -> Worker:
    return start()


@pytest.fixture
def sign_in(transactional_db: None) -> Callable[[str], Client]:
    def go(name: str) -> Client:
        client = Client()
        make.sign_in(client, User.objects.filter(username=name).first() or make.user(name))
        return client

    return go
