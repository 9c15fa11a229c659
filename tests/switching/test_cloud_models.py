"""Models that run elsewhere, and models that answer no prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from switcher.domain.drift import ReadingHistory
from switcher.domain.drift_rules import find_drift
from switcher.domain.errors import BadRequest, Conflict
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.ollama.errors import Refused
from switcher.queries.desired import watched_host
from switcher.records import config
from switcher.records.clients import set_clients
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.worker import run_once
from tests import make
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.fact(28)]

CLOUD = "big:1t-cloud"
Make = Callable[..., ModelProfile]


@pytest.fixture(autouse=True)
def _reached(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.add_cloud(CLOUD)
    monkeypatch.setattr(service, "Client", lambda *_: fake)


def switch_to(fake: FakeHost, model: str, **values: Any) -> SwitchEvent:
    row, _ = service.request_switch(SwitchRequest(model, **values), ANNA)
    run_once(row.pk, connect=lambda *_: fake)
    row.refresh_from_db()
    return row


def allow(host: Host, allows: bool = True) -> None:
    config.put_host({"allows_cloud": allows}, ANNA, host.pk)


@pytest.mark.parametrize("strategy", ["auto", "swap"])
def test_a_cloud_model_is_refused_before_anything_is_touched(
    host: Host, fake: FakeHost, strategy: str
) -> None:
    switch_to(fake, "mid-a")
    fake.journal.clear()
    row = switch_to(fake, CLOUD, strategy=strategy)
    assert (row.state, row.error_code) == ("failed", "plan-blocked")
    assert "do not allow" in row.error
    assert "ollama.com" in row.error
    assert set(fake.journal) == {"ps", "tags"}


def test_the_name_alone_tells_a_cloud_model_that_was_not_pulled(host: Host) -> None:
    plan = service.plan(SwitchRequest("other:cloud"))
    assert "its prompts are sent to Ollama's servers" in plan.blocked
    allow(host)
    assert "ollama pull other:cloud" in service.plan(SwitchRequest("other:cloud")).blocked


def test_an_allowed_cloud_model_becomes_active_and_loads_nothing(
    host: Host, fake: FakeHost
) -> None:
    switch_to(fake, "mid-a")
    allow(host)
    plan = service.plan(SwitchRequest(CLOUD))
    assert (plan.cloud, plan.load.bytes, plan.fits, plan.strategy.value) == (
        True,
        0,
        True,
        "overlap",
    )
    row = switch_to(fake, CLOUD)
    assert row.state == "active", row.error
    assert not any(act.startswith(f"load {CLOUD}") for act in fake.journal)
    assert fake.names == set()
    host.refresh_from_db()
    assert host.active_tag == CLOUD
    assert switch_to(fake, "mid-b").state == "active"


def test_an_active_cloud_model_is_active_already(host: Host, fake: FakeHost) -> None:
    allow(host)
    switch_to(fake, CLOUD)
    assert service.plan(SwitchRequest(CLOUD)).already_active
    assert switch_to(fake, CLOUD).figures == {"already_active": True}


def test_a_cloud_model_that_does_not_answer_is_rolled_back(host: Host, fake: FakeHost) -> None:
    switch_to(fake, "mid-a")
    allow(host)
    fake.fail[f"warm {CLOUD}"] = [Refused("Ollama answered 401: unauthorized", 401, "")]
    row = switch_to(fake, CLOUD)
    assert row.state == "rolled_back"
    assert fake.names == {"mid-a"}


def test_the_settings_cannot_forbid_the_cloud_model_that_is_active(
    host: Host, fake: FakeHost
) -> None:
    allow(host)
    switch_to(fake, CLOUD)
    with pytest.raises(Conflict, match="Switch to another model first"):
        allow(host, False)


def test_a_cloud_model_can_neither_be_pinned_nor_named_where_it_is_not_allowed(
    host: Host, profile: Make
) -> None:
    row = profile("other:cloud")
    with pytest.raises(BadRequest, match="is a cloud model"):
        config.set_pinned(host, [row], ANNA)
    with pytest.raises(BadRequest, match="do not allow prompts to leave"):
        set_clients(host.pk, ANNA, names={"big": row.name})
    allow(host)
    set_clients(host.pk, ANNA, names={"big": row.name})


def test_a_pinned_profile_cannot_be_changed_to_a_cloud_model(host: Host, profile: Make) -> None:
    row = profile("embed")
    config.set_pinned(host, [row], ANNA)
    with pytest.raises(BadRequest, match="nothing of it could be kept loaded") as caught:
        config.put_profile({"tag": "other:cloud"}, ANNA, row.pk)
    assert caught.value.field == "tag"


def test_no_switch_warms_a_pinned_profile_that_became_a_cloud_model_in_an_earlier_release(
    host: Host, fake: FakeHost, profile: Make
) -> None:
    host.pinned.add(profile("other:cloud"))
    assert switch_to(fake, "mid-a").state == "active"
    assert not [act for act in fake.journal if "other:cloud" in act]


def test_an_active_cloud_model_is_not_missed_in_memory(host: Host, fake: FakeHost) -> None:
    allow(host)
    switch_to(fake, CLOUD)
    watched = watched_host(host.pk)
    assert watched is not None
    seen = make.seen(on_disk=tuple(fake.models.values()))
    assert find_drift(watched.desired, ReadingHistory(), seen) == ()


@pytest.mark.parametrize("told_by", ["tags", "show"])
def test_a_model_that_answers_no_prompts_is_refused_before_anything_is_touched(
    host: Host, fake: FakeHost, told_by: str
) -> None:
    switch_to(fake, "mid-a")
    row = fake.add("flux")
    fake.models[row.name.full] = replace(row, capabilities=("image",) if told_by == "tags" else ())
    fake.told[row.name.full] = ("image",)
    failed = switch_to(fake, "flux", strategy="swap")
    assert (failed.state, failed.error_code) == ("failed", "plan-blocked")
    assert "neither answers prompts nor embeds (Ollama lists: image)" in failed.error
    assert fake.names == {"mid-a"}
