"""What every entrance calls: a wish checked, planned, asked for, cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from switcher.domain.errors import (
    BadRequest,
    Conflict,
    NotFound,
    PlanBlocked,
    PlanOutdated,
    SwitcherError,
    SwitchRunning,
)
from switcher.domain.specs import Spec
from switcher.domain.states import Strategy
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.ollama.errors import Unreachable
from switcher.records import config
from switcher.switching import service, wake
from switcher.switching.service import SwitchRequest
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., ModelProfile]


@pytest.fixture(autouse=True)
def _reached(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Client", lambda url: fake)


@pytest.fixture(autouse=True)
def rung(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the worker was woken."""
    rings: list[int] = []
    monkeypatch.setattr(wake, "worker", lambda: rings.append(1))
    return rings


# --- what is meant ---------------------------------------------------------------------------


def test_without_a_host_the_default_one_is_meant(host: Host) -> None:
    config.save_host(Host(name="south-1", base_url="http://127.0.0.1:8"), ANNA)
    assert service.resolve(SwitchRequest("mid-a")).host == host
    assert service.resolve(SwitchRequest("mid-a", host="south-1")).host.name == "south-1"


def test_without_any_host_it_says_so(db: None) -> None:
    with pytest.raises(NotFound, match="There is no host yet"):
        service.resolve(SwitchRequest("mid-a"))


def test_a_removed_host_is_no_host(host: Host) -> None:
    config.remove_host(host.pk, ANNA)
    with pytest.raises(NotFound, match="no host named 'north-1'"):
        service.resolve(SwitchRequest("mid-a", host="north-1"))


def test_a_model_without_a_profile_takes_the_hosts_defaults(host: Host) -> None:
    config.put_host({"keep_alive": "2h"}, ANNA, host.pk)
    want = service.resolve(SwitchRequest("mid-a", reason=" because "))
    assert want.spec == Spec(profile="", tag="mid-a", keep_alive="2h")
    assert (want.profile_id, want.strategy, want.reason) == (None, Strategy.AUTO, "because")


@pytest.mark.fact(20)
@pytest.mark.parametrize("model", ["mid-a", "mid-a:latest"])
@pytest.mark.parametrize("tag", ["mid-a", "mid-a:latest"])
def test_a_model_takes_the_one_profile_that_is_of_it(
    host: Host, profile: Make, model: str, tag: str
) -> None:
    row = profile(tag, keep_alive="forever", options={"num_ctx": 8192})
    want = service.resolve(SwitchRequest(model))
    assert (want.profile_id, want.spec.profile) == (row.pk, row.name)
    assert (want.spec.keep_alive, want.spec.num_ctx) == ("forever", 8192)


def test_where_two_profiles_are_of_it_neither_is_guessed(host: Host, profile: Make) -> None:
    profile("mid-a", keep_alive="forever")
    profile("mid-a:latest", keep_alive="2h")
    want = service.resolve(SwitchRequest("mid-a"))
    assert (want.profile_id, want.spec.keep_alive) == (None, "30m")
    assert service.resolve(SwitchRequest("mid-a", "mid-a-latest")).spec.keep_alive == "2h"


def test_a_profile_alone_is_enough_and_a_keep_alive_of_ones_own_goes_before_its(
    host: Host, profile: Make
) -> None:
    row = profile("mid-a", keep_alive="2h")
    assert service.resolve(SwitchRequest(profile="mid-a")).spec.keep_alive == "2h"
    want = service.resolve(SwitchRequest(profile="mid-a", keep_alive="-1"))
    assert (want.spec.keep_alive, want.profile_id) == ("forever", row.pk)


@pytest.mark.parametrize(
    ("wish", "kind", "field"),
    [
        (SwitchRequest(), BadRequest, "model"),
        (SwitchRequest("../x"), BadRequest, "model"),
        (SwitchRequest("a b"), BadRequest, "model"),
        (SwitchRequest("mid-b", "mid-a"), BadRequest, "model"),
        (SwitchRequest("mid-a", keep_alive="30"), BadRequest, "keep_alive"),
        (SwitchRequest("mid-a", strategy="magic"), BadRequest, "strategy"),
        (SwitchRequest("mid-a", strategy="OVERLAP"), BadRequest, "strategy"),
        (SwitchRequest("mid-a", reason="x" * 501), BadRequest, "reason"),
        (SwitchRequest("mid-a", reason="half \ud800"), BadRequest, "reason"),
        (SwitchRequest("mid-a", reason="nul \x00"), BadRequest, "reason"),
        (SwitchRequest("mid-a", "nowhere"), NotFound, None),
        (SwitchRequest("mid-a", host="nowhere"), NotFound, None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("act", ["check", "plan", "request"])
def test_what_is_wrong_is_named_by_its_field_before_anything_happens(
    fake: FakeHost,
    host: Host,
    profile: Make,
    rung: list[int],
    wish: SwitchRequest,
    kind: type[SwitcherError],
    field: str | None,
    act: str,
) -> None:
    profile("mid-a")
    acts: dict[str, Callable[[], Any]] = {
        "check": lambda: service.resolve(wish),
        "plan": lambda: service.plan(wish),
        "request": lambda: service.request_switch(wish, ANNA),
    }
    with pytest.raises(kind) as caught:
        acts[act]()
    assert getattr(caught.value, "field", None) == field
    assert caught.value.text
    assert (fake.journal, rung) == ([], [])
    assert not SwitchEvent.objects.exists()


def test_a_reason_may_have_lines(host: Host) -> None:
    assert (
        service.resolve(SwitchRequest("mid-a", reason="One.\nTwo.\tÄ ✓")).reason
        == "One.\nTwo.\tÄ ✓"
    )


# --- planning --------------------------------------------------------------------------------


def test_a_plan_reads_the_host_freshly_and_does_nothing(
    fake: FakeHost, host: Host, profile: Make
) -> None:
    fake.hold("mid-b")
    plan = service.plan(SwitchRequest("mid-a"))
    assert fake.journal == ["ps", "tags"]
    assert (plan.model.full, plan.strategy, plan.fits) == ("mid-a:latest", Strategy.OVERLAP, True)
    assert plan.load.why == "about, from the size of its file"
    assert not SwitchEvent.objects.exists()


def test_a_plan_of_a_host_that_does_not_answer_says_that(fake: FakeHost, host: Host) -> None:
    fake.fail["ps"] = [Unreachable("Connection refused at http://127.0.0.1:9.")]
    with pytest.raises(Unreachable, match="refused"):
        service.plan(SwitchRequest("mid-a"))


# --- asking ----------------------------------------------------------------------------------


def test_a_wish_is_recorded_and_the_worker_woken_after_it(
    fake: FakeHost, host: Host, profile: Make, rung: list[int]
) -> None:
    row = profile("mid-a", options={"num_ctx": 8192})
    switch, made = service.request_switch(
        SwitchRequest("mid-a", strategy="swap", reason="because"), ANNA
    )
    assert made
    assert (switch.state, switch.strategy_asked, switch.reason) == ("queued", "swap", "because")
    assert switch.to_profile_id == row.pk
    assert Spec.from_json(switch.to_spec).num_ctx == 8192
    assert rung == [1]
    assert fake.journal == [], "without a plan to keep to, the worker does the looking"


def test_a_profile_that_changes_later_changes_nothing_under_way(host: Host, profile: Make) -> None:
    row = profile("mid-a", keep_alive="2h")
    switch, _ = service.request_switch(SwitchRequest("mid-a"), ANNA)
    config.put_profile({"keep_alive": "1m", "tag": "mid-b"}, ANNA, row.pk)
    spec = Spec.from_json(SwitchEvent.objects.get(pk=switch.pk).to_spec)
    assert (spec.tag, spec.keep_alive) == ("mid-a", "2h")


def test_a_second_wish_is_refused_and_named_and_wakes_nobody(host: Host, rung: list[int]) -> None:
    first, _ = service.request_switch(SwitchRequest("mid-a"), ANNA)
    with pytest.raises(SwitchRunning) as caught:
        service.request_switch(SwitchRequest("mid-b"), ANNA)
    assert caught.value.switch_id == first.pk
    assert rung == [1]


def test_the_same_key_gives_the_same_switch_and_wakes_nobody(host: Host, rung: list[int]) -> None:
    first, _ = service.request_switch(SwitchRequest("mid-a"), ANNA, idempotency_key="k-1")
    again, made = service.request_switch(SwitchRequest("mid-a"), ANNA, idempotency_key="k-1")
    assert (again.pk, made, rung) == (first.pk, False, [1])


def test_a_plan_that_still_holds_is_carried_out(fake: FakeHost, host: Host) -> None:
    fake.hold("mid-b")
    token = service.plan(SwitchRequest("mid-a")).token
    switch, _ = service.request_switch(SwitchRequest("mid-a"), ANNA, plan_token=token)
    assert switch.plan_token == token


@pytest.mark.parametrize("change", ["another model came", "vram", "pulled anew", "strategy"])
def test_a_plan_that_no_longer_holds_does_nothing(
    fake: FakeHost, host: Host, rung: list[int], change: str
) -> None:
    fake.hold("mid-b")
    token, wish = service.plan(SwitchRequest("mid-a")).token, SwitchRequest("mid-a")
    if change == "another model came":
        fake.hold("embed")
    elif change == "vram":
        config.put_host({"vram_bytes": 10**9}, ANNA, host.pk)
    elif change == "pulled anew":
        fake.repoint("mid-a", "sha-other")
    else:
        wish = SwitchRequest("mid-a", strategy="swap")
    with pytest.raises(PlanOutdated, match="Nothing was switched"):
        service.request_switch(wish, ANNA, plan_token=token)
    assert rung == []
    assert not SwitchEvent.objects.exists()


def test_a_plan_that_cannot_work_says_so_rather_than_that_it_is_old(
    fake: FakeHost, host: Host
) -> None:
    token = service.plan(SwitchRequest("mid-a")).token
    del fake.models["mid-a:latest"]
    with pytest.raises(PlanBlocked, match="ollama pull mid-a"):
        service.request_switch(SwitchRequest("mid-a"), ANNA, plan_token=token)


def test_a_cancel_wakes_the_worker(host: Host, rung: list[int]) -> None:
    row, _ = service.request_switch(SwitchRequest("mid-a"), ANNA)
    service.cancel(row.pk, ANNA)
    assert rung == [1, 1]
    SwitchEvent.objects.filter(pk=row.pk).update(state="cancelled")
    with pytest.raises(Conflict):
        service.cancel(row.pk, ANNA)
    assert rung == [1, 1]
