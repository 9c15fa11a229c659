"""What people write in requests: names and keep-alives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from switcher.domain.clock import system
from switcher.domain.errors import BadRequest
from switcher.domain.memory import ModelFacts
from switcher.models import Host, LearnedSize, ModelProfile, SwitchEvent
from switcher.ollama.errors import TimedOut
from switcher.records import config, readings
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.worker import run_once
from tests import make
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _reached(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Client", lambda *_: fake)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.fact(20)
@pytest.mark.parametrize(
    ("on_disk", "asked"),
    [
        ("qwen2.5:7b", "library/qwen2.5:7b"),
        ("qwen2.5:7b", "registry.ollama.ai/library/qwen2.5:7b"),
        ("qwen2.5:7b", "https://registry.ollama.ai/library/qwen2.5:7b"),
        ("qwen2.5:7b", "QWEN2.5:7B"),
        ("qwen2.5:7b", " qwen2.5:7b:local "),
        ("hf.co/anna/m:Q4_K_M", "https://HF.co/anna/m:q4_k_m"),
        ("registry.lan:5000/team/m:latest", "registry.lan:5000/team/m:latest"),
        ("registry.lan:5000/team/m:latest", "registry.lan:5000/team/m"),
        ("glm-4.6", "glm-4.6"),
        ("glm-4.6", "glm-4.6:latest"),
    ],
)
def test_a_switch_finds_the_model_that_a_spelling_means(
    host: Host, fake: FakeHost, on_disk: str, asked: str
) -> None:
    fake.add(on_disk, 1)
    plan = service.plan(SwitchRequest(asked))
    assert plan.digest == f"sha-{on_disk}"
    assert not plan.blocked


def test_another_spelling_of_the_active_model_is_active_already(host: Host, fake: FakeHost) -> None:
    row, _ = service.request_switch(SwitchRequest("mid-a"), ANNA)
    run_once(row.pk, connect=lambda *_: fake)
    assert SwitchEvent.objects.get(pk=row.pk).state == "active"
    plan = service.plan(SwitchRequest("Library/MID-A:latest"))
    assert plan.already_active


@pytest.mark.parametrize(
    ("asked", "kept"),
    [("library/MID-A", "mid-a"), ("MID-A:LATEST", "mid-a:latest"), ("mid-a", "mid-a")],
)
def test_a_model_is_recorded_by_the_name_that_the_host_lists(
    host: Host, fake: FakeHost, asked: str, kept: str
) -> None:
    readings.store(host.pk, make.seen(on_disk=tuple(fake.models.values())), 0)
    assert service.resolve(SwitchRequest(asked)).spec.tag == kept
    row, _ = service.request_switch(SwitchRequest(asked), ANNA, idempotency_key="k")
    again, made = service.request_switch(SwitchRequest("Mid-A"), ANNA, idempotency_key="k")
    assert (again.pk, made) == (row.pk, False)


def test_another_spelling_finds_the_models_profile(
    host: Host, profile: Callable[..., ModelProfile]
) -> None:
    row = profile("library/mid-a", keep_alive="2h")
    assert service.resolve(SwitchRequest("MID-A:latest")).profile_id == row.pk


# --- keep-alives -----------------------------------------------------------------------------


@pytest.mark.parametrize("keep_alive", ["0", "0s", "-0", "1ms"])
def test_a_switch_with_a_keep_alive_of_nothing_is_refused_before_anything_is_touched(
    host: Host, fake: FakeHost, keep_alive: str
) -> None:
    with pytest.raises(BadRequest, match="could not stay loaded") as caught:
        service.request_switch(SwitchRequest("mid-a", keep_alive=keep_alive), ANNA)
    assert (caught.value.field, fake.journal) == ("keep_alive", [])
    assert not SwitchEvent.objects.exists()


def test_the_refusal_names_the_profile_or_the_host_whose_keep_alive_it_is(
    host: Host, profile: Callable[..., ModelProfile]
) -> None:
    profile("mid-a", keep_alive="0")
    with pytest.raises(BadRequest, match="It comes from profile mid-a"):
        service.plan(SwitchRequest("mid-a"))
    config.put_host({"keep_alive": "0"}, ANNA, host.pk)
    with pytest.raises(BadRequest, match="It comes from north-1's settings"):
        service.plan(SwitchRequest("mid-b"))


def test_a_request_may_replace_a_profiles_keep_alive_of_nothing(
    host: Host, profile: Callable[..., ModelProfile]
) -> None:
    profile("mid-a", keep_alive="0")
    spec = service.resolve(SwitchRequest("mid-a", keep_alive="infinite")).spec
    assert spec.keep_alive == "forever"


def test_a_profile_with_a_keep_alive_of_nothing_cannot_be_pinned(
    host: Host, profile: Callable[..., ModelProfile]
) -> None:
    row = profile("mid-a", keep_alive="0")
    with pytest.raises(BadRequest) as caught:
        config.set_pinned(host, [row], ANNA)
    assert caught.value.field == "pinned"
    config.put_profile({"keep_alive": "2h"}, ANNA, row.pk)
    row.refresh_from_db()
    config.set_pinned(host, [row], ANNA)
    with pytest.raises(BadRequest, match="mid-a is pinned"):
        config.put_profile({"keep_alive": "0"}, ANNA, row.pk)


# --- limits and contexts ---------------------------------------------------------------------


def run(fake: FakeHost, model: str, **values: Any) -> SwitchEvent:
    row, _ = service.request_switch(SwitchRequest(model, **values), ANNA)
    run_once(row.pk, connect=lambda *_: fake)
    row.refresh_from_db()
    return row


@pytest.mark.fact(14)
def test_a_server_that_evicts_although_there_is_room_tells_its_limit(
    host: Host, fake: FakeHost
) -> None:
    """OLLAMA_MAX_LOADED_MODELS=1: the first overlap shows it, and the next switch is a swap."""
    run(fake, "mid-a")

    def evict(act: str) -> None:
        if act == "load mid-b":
            fake.loaded = {d: r for d, r in fake.loaded.items() if d == "sha-mid-b"}

    fake.after_act = evict
    row = run(fake, "mid-b")
    assert (row.state, row.strategy) == ("active", "overlap")
    assert "it keeps at most 1 loaded" in row.warnings[0]
    host.refresh_from_db()
    assert host.learned_max_loaded == 1
    assert run(fake, "mid-a").strategy == "swap"


@pytest.mark.fact(14)
@pytest.mark.parametrize(("waited_s", "learned"), [(120.0, 1), (5.0, None)])
def test_a_load_that_waits_for_a_busy_model_tells_the_limit_too(
    host: Host,
    fake: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
    waited_s: float,
    learned: int | None,
) -> None:
    """The busy model is never idle, so the server never evicts it, and the load times out."""
    run(fake, "mid-a")
    monkeypatch.setattr(ClaimedSwitch, "seconds_in", lambda *_: waited_s)
    fake.fail["load mid-b"] = [TimedOut("It did not answer within 120 s.")]
    row = run(fake, "mid-b")
    assert (row.state, row.strategy) == ("rolled_back", "overlap")
    host.refresh_from_db()
    assert host.learned_max_loaded == learned
    assert run(fake, "mid-b").strategy == ("swap" if learned else "overlap")


def test_a_limit_that_was_learned_and_does_not_hold_is_not_counted(
    host: Host, fake: FakeHost
) -> None:
    Host.objects.filter(pk=host.pk).update(learned_max_loaded=1)
    fake.hold("mid-a")
    fake.hold("embed")
    assert service.plan(SwitchRequest("mid-b")).strategy.value == "overlap"
    config.put_host({"max_loaded": 2}, ANNA, host.pk)
    assert service.plan(SwitchRequest("mid-b")).strategy.value == "swap"


@pytest.mark.fact(12)
def test_a_context_beyond_what_the_server_gives_is_warned_of_and_switched_to_once(
    host: Host, fake: FakeHost, profile: Callable[..., ModelProfile]
) -> None:
    fake.facts_by_name["mid-a:latest"] = ModelFacts(1000, trained_context=131_072)
    fake.most_context = 131_072
    row = profile("mid-a", options={"num_ctx": 200_000})
    plan = service.plan(SwitchRequest(profile=row.name))
    assert "gets 131,072 here" in plan.warnings[0]
    switch = run(fake, "", profile=row.name)
    assert switch.state == "active"
    assert "mid-a got 131,072" in switch.warnings[0]
    assert service.plan(SwitchRequest(profile=row.name)).already_active


def test_a_request_may_name_the_context_length(host: Host, fake: FakeHost) -> None:
    row = run(fake, "mid-a", num_ctx="16,384")
    assert row.to_spec["options"] == {"num_ctx": 16_384}
    assert fake.loaded["sha-mid-a"].context_length == 16_384
    with pytest.raises(BadRequest) as caught:
        service.plan(SwitchRequest("mid-a", num_ctx="many"))
    assert caught.value.field == "num_ctx"


def test_what_a_model_takes_is_learned_from_what_is_seen(host: Host, fake: FakeHost) -> None:
    fake.facts_by_name["mid-a:latest"] = ModelFacts(100_000)
    assert service.plan(SwitchRequest("mid-a", num_ctx="8192")).size_basis == "computed"
    fake.hold("mid-a", num_ctx=4096)
    service.plan(SwitchRequest("mid-b"))
    fake.loaded.clear()
    plan = service.plan(SwitchRequest("mid-a", num_ctx="8192"))
    assert plan.size_basis == "learned"
    assert plan.load.bytes == 8_000_000_000 + 4096 * 100_000
    assert service.plan(SwitchRequest("mid-b")).size_basis == "guessed"


def test_the_context_that_somebody_else_asked_for_is_not_taken_for_the_default(
    host: Host, fake: FakeHost
) -> None:
    fake.facts_by_name["mid-a:latest"] = ModelFacts(100_000)
    fake.hold("mid-a", num_ctx=8192)
    service.plan(SwitchRequest("mid-b"))
    fake.loaded.clear()
    assert service.plan(SwitchRequest("mid-a")).load.bytes == 8_000_000_000 - 4096 * 100_000


def test_a_48_gb_host_with_an_old_ollama_is_expected_to_give_4096_tokens(
    host: Host, fake: FakeHost
) -> None:
    fake.facts_by_name["mid-a:latest"] = ModelFacts(100_000)
    config.put_host({"vram_bytes": 48 * 2**30}, ANNA, host.pk)
    readings.store(host.pk, make.seen(version="0.9.6"), 0)
    assert service.plan(SwitchRequest("mid-a")).load.bytes == 8_000_000_000 + 4096 * 100_000
    readings.store(host.pk, make.seen(version="0.15.5"), 0)
    assert service.plan(SwitchRequest("mid-a")).load.bytes == 8_000_000_000 + 262_144 * 100_000


def test_the_context_that_a_pin_got_unasked_is_its_default_whatever_others_ask_for(
    host: Host, fake: FakeHost, profile: Callable[..., ModelProfile]
) -> None:
    """The server's own default, OLLAMA_CONTEXT_LENGTH, may be another than that of its version."""
    fake.facts_by_name["embed:latest"] = ModelFacts(100_000)
    config.put_host({"vram_bytes": 48 * 2**30}, ANNA, host.pk)
    config.set_pinned(host, [profile("embed")], ANNA)
    assert run(fake, "mid-a").state == "active"
    fake.hold("embed", num_ctx=16_384)
    service.plan(SwitchRequest("mid-b"))
    fake.loaded.clear()
    (pin,) = service.plan(SwitchRequest("mid-b")).reload
    assert pin.bytes == 1_000_000_000, "as it was loaded with 4,096 tokens"
    learned = LearnedSize.objects.filter(digest="sha-embed").order_by("context_length")
    assert list(learned.values_list("context_length", "by_default")) == [
        (4096, True),
        (16_384, False),
    ]


def test_a_plan_counts_a_context_for_each_of_the_hosts_parallel_requests(
    host: Host, fake: FakeHost
) -> None:
    fake.facts_by_name["mid-a:latest"] = ModelFacts(100_000)
    one = service.plan(SwitchRequest("mid-a", num_ctx="8192"))
    config.put_host({"parallel_requests": 4}, ANNA, host.pk)
    four = service.plan(SwitchRequest("mid-a", num_ctx="8192"))
    assert four.load.bytes - one.load.bytes == 3 * 8192 * 100_000
    assert four.token != one.token, "a plan that was shown before does not hold any more"
    too_much = service.plan(SwitchRequest("mid-a", num_ctx="60000"))
    assert 0 < too_much.fits_context < 60_000
    fits = service.plan(SwitchRequest("mid-a", num_ctx=str(too_much.fits_context)))
    assert not fits.fits_context


@pytest.mark.parametrize("change", ["address", "version"])
def test_what_a_switch_got_from_another_server_or_an_old_version_tells_nothing(
    host: Host, fake: FakeHost, change: str
) -> None:
    config.put_host({"vram_bytes": 48 * 2**30}, ANNA, host.pk)
    readings.store(host.pk, make.seen(version="0.15.4"), 0)
    fake.facts_by_name["mid-a:latest"] = ModelFacts(100_000)
    run(fake, "mid-a")
    fake.loaded.clear()
    assert service.plan(SwitchRequest("mid-a")).load.bytes == 8_000_000_000, "as it was loaded"
    if change == "address":
        config.put_host({"base_url": "http://elsewhere.test:11434"}, ANNA, host.pk)
    else:
        readings.store(host.pk, make.seen(version="0.15.5", at=system.now()), 0)
    assert service.plan(SwitchRequest("mid-a")).load.bytes == 8_000_000_000 + 262_144 * 100_000


def test_what_a_switch_got_counts_after_an_update_that_changes_no_default(
    host: Host, fake: FakeHost
) -> None:
    readings.store(host.pk, make.seen(version="0.31.1"), 0)
    run(fake, "mid-a")
    fake.loaded.clear()
    readings.store(host.pk, make.seen(version="0.31.2", at=system.now()), 0)
    assert service.plan(SwitchRequest("mid-a")).size_basis == "learned"
