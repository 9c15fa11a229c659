from __future__ import annotations

from collections.abc import Callable

import pytest

from switcher.audit.ledger import Actor
from switcher.domain.specs import Spec
from switcher.domain.states import Strategy
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.records import config, switches
from switcher.records.switches import ResolvedRequest
from switcher.switching.worker import run_once
from tests.switching.fakehost import GB, FakeHost

ANNA = Actor("anna", "page", ip="192.0.2.1")


@pytest.fixture
def fake() -> FakeHost:
    """A 24 GB host with mid-a (8 GB), mid-b (8 GB), big (20 GB) and embed (1 GB) on its disk."""
    host = FakeHost()
    for tag, gb in (("mid-a", 8), ("mid-b", 8), ("big", 20)):
        host.add(tag, gb)
    host.add("embed", 1, embeds=True)
    return host


@pytest.fixture
def host(db: None) -> Host:
    row = Host(name="north-1", base_url="http://127.0.0.1:9", vram_bytes=24 * GB)
    return config.save_host(row, ANNA)


@pytest.fixture
def profile() -> Callable[..., ModelProfile]:
    def make(tag: str, **values: object) -> ModelProfile:
        row = ModelProfile(name=tag.replace(":", "-"), tag=tag, **values)  # type: ignore[misc]
        return config.save_profile(row, ANNA)

    return make


@pytest.fixture
def switch(host: Host, fake: FakeHost) -> Callable[..., SwitchEvent]:
    """Ask for a switch to a profile and run it to its end, on the fake host."""

    def go(profile: ModelProfile, strategy: str = "auto", token: str = "") -> SwitchEvent:
        request = ResolvedRequest(
            host, Spec.of_profile(profile), profile.pk, Strategy(strategy), "because"
        )
        row, _ = switches.open_switch(request, ANNA, plan_token=token)
        run_once(row.pk, connect=lambda _: fake)
        return SwitchEvent.objects.get(pk=row.pk)

    return go
