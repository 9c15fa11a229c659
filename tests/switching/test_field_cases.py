"""What people write in requests: names and keep-alives."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from switcher.domain.errors import BadRequest
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.records import config
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.worker import run_once
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
