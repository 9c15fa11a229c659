"""Names that stand for the active model: no request by one of them loads it anew for the others."""

from __future__ import annotations

from typing import Any

import pytest

from switcher.concurrency.threads import in_thread
from switcher.domain.errors import BadRequest
from switcher.domain.specs import Spec
from switcher.models import GatewayName, Host, ModelProfile
from switcher.records import config
from switcher.records.clients import put_name, set_clients
from tests import make
from tests.gateway.conftest import ADMIN, HELLO, Upstream, add_host, ask, set_active

OPENAI, OLLAMA = "/v1/chat/completions", "/api/chat"
LONG = {"num_ctx": 32768, "temperature": 0.3}


def name_long(host: Host, tag: str, active: Spec) -> None:
    """`long` stands for a profile of this tag with a large context, which does not last long."""
    make.profile(tag, "long", options=LONG, keep_alive="1m")
    set_clients(host.pk, ADMIN, policy="names", names={"long": "long"})
    set_active(host, active)


async def asked(upstream: Upstream, target: str, **more: Any) -> Any:
    await ask({**HELLO, "model": "long", **more}, target=target).end()
    return upstream.body()


@pytest.mark.fact(12)
@pytest.mark.fact(13)
async def test_the_active_model_is_asked_for_as_it_was_switched_to(
    host: Host, upstream: Upstream
) -> None:
    active = Spec("", "mid-a", "2h", {"num_ctx": 8192, "temperature": 0.9})
    await in_thread(name_long, host, "mid-a:latest", active)
    sent = await asked(upstream, OPENAI)
    assert (sent["model"], sent["keep_alive"], sent["options"]["num_ctx"]) == ("mid-a", "2h", 8192)
    assert sent["options"]["temperature"] == 0.3, "sampling loads nothing: it is the name's"
    assert (await asked(upstream, OLLAMA))["options"] == {"num_ctx": 8192}


@pytest.mark.fact(12)
async def test_without_options_where_it_was_switched_to_without_any(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(name_long, host, "mid-a", Spec("", "mid-a"))
    for target in (OPENAI, OLLAMA):
        sent = await asked(upstream, target)
        assert upstream.asked[-1][0] == target, "OpenAI's own address can say it"
        assert (sent["model"], sent.keys() & {"options", "keep_alive"}) == ("mid-a", set())


@pytest.mark.fact(22)
async def test_the_name_that_it_is_published_by_means_it_too(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(Host.objects.update, published_name="current:latest")
    await in_thread(name_long, host, "current", Spec("", "mid-a", options={"num_ctx": 8192}))
    sent = await asked(upstream, OLLAMA)
    assert (sent["model"], sent["options"]) == ("mid-a", {"num_ctx": 8192})


async def test_another_model_is_asked_for_as_its_profile_says(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(name_long, host, "tiny-a", Spec("", "mid-a", options={"num_ctx": 8192}))
    sent = await asked(upstream, OLLAMA)
    assert (sent["model"], sent["options"]) == ("tiny-a", {"num_ctx": 32768})


@pytest.mark.fact(12)
@pytest.mark.django_db
class TestTwoNames:
    """Of one model, on one host."""

    @pytest.fixture
    def host(self) -> Host:
        make.profile("mid-a", "short", options={"num_ctx": 4096, "temperature": 0.1})
        make.profile("mid-a:latest", "long", options=LONG)
        make.profile("mid-a", "short-too", options={"temperature": 0.9, "num_ctx": 4096})
        return add_host("tower", "http://tower.test")

    def test_are_refused_where_they_would_load_it_in_two_ways(self, host: Host) -> None:
        put_name(host.pk, "quick", "short", ADMIN)
        with pytest.raises(BadRequest, match="far and quick both mean mid-a on tower") as refused:
            put_name(host.pk, "far", "long", ADMIN)
        assert refused.value.field == "names"
        with pytest.raises(BadRequest, match="profiles long and short"):
            set_clients(host.pk, ADMIN, names={"quick": "short", "far": "long"})
        assert list(GatewayName.objects.values_list("name", flat=True)) == ["quick"]

    def test_may_differ_in_what_loads_nothing(self, host: Host) -> None:
        set_clients(host.pk, ADMIN, names={"quick": "short", "other": "short-too"})

    def test_are_of_no_matter_to_another_host(self, host: Host) -> None:
        put_name(host.pk, "quick", "short", ADMIN)
        put_name(add_host("den", "http://den.test").pk, "quick", "long", ADMIN)

    def test_hold_a_profile_to_how_it_is_loaded(self, host: Host) -> None:
        set_clients(host.pk, ADMIN, names={"quick": "short", "other": "short-too"})
        short = ModelProfile.objects.get(name="short")
        with pytest.raises(BadRequest, match="both mean mid-a") as refused:
            config.put_profile({"options": {"num_ctx": 2048}}, ADMIN, short.pk)
        assert refused.value.field == "options"
        config.put_profile({"options": {"num_ctx": 4096, "top_k": 5}}, ADMIN, short.pk)
        config.put_profile({"options": {"num_ctx": 2048}, "tag": "tiny-a"}, ADMIN, short.pk)
