"""Models that were created from one another have one file, which the server loads only once and
lists as the model that came first (fact 21)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.records import config
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import run_once
from tests.make import ANNA
from tests.simulated import SimulatedOllama

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.fact(21)]


@pytest.fixture
def ollama() -> Iterator[SimulatedOllama]:
    with SimulatedOllama("mid-a=4GB", "mid-b=4GB", load_rate="50GB", vram="24GB") as made:
        made.post("/api/create", **{"model": "pirate", "from": "mid-a", "stream": False})
        yield made


@pytest.fixture
def host(transactional_db: None, ollama: SimulatedOllama) -> Host:
    row = Host(name="north-1", base_url=ollama.url, vram_bytes=24 * 10**9)
    return config.save_host(row, ANNA)


def switch(tag: str, strategy: str = "") -> SwitchEvent:
    row, _ = request_switch(SwitchRequest(tag, strategy=strategy), ANNA)
    assert run_once(row.pk)
    row.refresh_from_db()
    return row


@pytest.mark.parametrize("strategy", ["", "overlap", "swap"])
def test_a_switch_between_two_of_them_unloads_the_first(
    host: Host, ollama: SimulatedOllama, strategy: str
) -> None:
    switch("mid-a")
    for tag, other in (("pirate", "mid-a"), ("mid-a", "pirate")):
        row = switch(tag, strategy)
        assert (row.state, row.strategy, row.warnings) == ("active", "swap", []), row.error
        assert ollama.resident() == {tag}
        if strategy != "swap":
            reason = f"it has the same file as {other}, which Ollama loads only once"
            assert row.strategy_reason == reason


def test_a_pinned_one_of_them_is_in_the_way(host: Host, ollama: SimulatedOllama) -> None:
    pinned = config.save_profile(ModelProfile(name="mid-a", tag="mid-a"), ANNA)
    config.set_pinned(host, [pinned], ANNA)
    switch("mid-b")
    row = switch("pirate")
    assert row.state == "failed"
    assert "pirate has the same file as mid-a, which is loaded on north-1 and stays" in row.error
    assert row.error.endswith("Unpin it first.")
    assert ollama.resident() == {"mid-a", "mid-b"}
