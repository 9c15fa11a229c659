"""Names as people write them, on a host that lists the model by one of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.worker import run_once
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.fact(20)]


@pytest.fixture(autouse=True)
def _reached(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Client", lambda *_: fake)


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
