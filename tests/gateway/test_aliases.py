"""Aliases of the active model: a request by one of them never reloads it for the others."""

from __future__ import annotations

from typing import Any

import pytest

from switcher.concurrency.threads import in_thread
from switcher.domain.errors import BadRequest
from switcher.domain.specs import Spec
from switcher.gateway import route_cache
from switcher.models import GatewayName, Host, ModelProfile
from switcher.records import config
from switcher.records.clients import put_name, set_clients
from tests import make
from tests.gateway.conftest import ADMIN, HELLO, Upstream, add_host, ask, set_active

OPENAI, OLLAMA = "/v1/chat/completions", "/api/chat"
LONG = {"num_ctx": 32768, "temperature": 0.3}


def name_long(host: Host, tag: str, active: Spec) -> None:
    """Let `long` stand for a profile of this tag, with a large context and a short keep-alive."""
    make.profile(tag, "long", options=LONG, keep_alive="1m")
    set_clients(host.pk, ADMIN, policy="names", names={"long": "long"})
    set_active(host, active)


async def asked(upstream: Upstream, target: str, **more: Any) -> Any:
    await ask({**HELLO, "model": "long", **more}, target=target).end()
    return upstream.body()


@pytest.mark.fact(12)
@pytest.mark.fact(13)
async def test_an_alias_of_the_active_model_uses_the_options_of_the_switch(
    host: Host, upstream: Upstream
) -> None:
    active = Spec("", "mid-a", "2h", {"num_ctx": 8192, "temperature": 0.9})
    await in_thread(name_long, host, "mid-a:latest", active)
    sent = await asked(upstream, OPENAI)
    assert (sent["model"], sent["keep_alive"], sent["options"]["num_ctx"]) == ("mid-a", "2h", 8192)
    assert sent["options"]["temperature"] == 0.3, "the alias's own"
    assert (await asked(upstream, OLLAMA))["options"] == {"num_ctx": 8192}


@pytest.mark.fact(12)
async def test_an_alias_sends_no_options_if_the_switch_set_none(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(name_long, host, "mid-a", Spec("", "mid-a"))
    for target in (OPENAI, OLLAMA):
        sent = await asked(upstream, target)
        assert upstream.received[-1][0] == target, "no translation is needed"
        assert (sent["model"], sent.keys() & {"options", "keep_alive"}) == ("mid-a", set())


@pytest.mark.fact(22)
async def test_an_alias_of_the_published_name_means_the_active_model(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(Host.objects.update, published_name="current:latest")
    await in_thread(name_long, host, "current", Spec("", "mid-a", options={"num_ctx": 8192}))
    sent = await asked(upstream, OLLAMA)
    assert (sent["model"], sent["options"]) == ("mid-a", {"num_ctx": 8192})


async def test_an_alias_of_another_model_uses_its_own_options(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(name_long, host, "tiny-a", Spec("", "mid-a", options={"num_ctx": 8192}))
    sent = await asked(upstream, OLLAMA)
    assert (sent["model"], sent["options"]) == ("tiny-a", {"num_ctx": 32768})


@pytest.mark.fact(12)
@pytest.mark.django_db
class TestTwoNames:
    """Two aliases of one model on one host."""

    @pytest.fixture
    def host(self) -> Host:
        make.profile("mid-a", "short", options={"num_ctx": 4096, "temperature": 0.1})
        make.profile("mid-a:latest", "long", options=LONG)
        make.profile("mid-a", "short-too", options={"temperature": 0.9, "num_ctx": 4096})
        return add_host("tower", "http://tower.test")

    def test_are_refused_if_they_would_load_it_in_two_ways(self, host: Host) -> None:
        put_name(host.pk, "quick", "short", ADMIN)
        with pytest.raises(BadRequest, match="far and quick both mean mid-a on tower") as refused:
            put_name(host.pk, "far", "long", ADMIN)
        assert refused.value.field == "names"
        with pytest.raises(BadRequest, match="profiles long and short"):
            set_clients(host.pk, ADMIN, names={"quick": "short", "far": "long"})
        assert list(GatewayName.objects.values_list("name", flat=True)) == ["quick"]

    def test_may_differ_in_sampling_options(self, host: Host) -> None:
        set_clients(host.pk, ADMIN, names={"quick": "short", "other": "short-too"})

    def test_do_not_affect_another_host(self, host: Host) -> None:
        put_name(host.pk, "quick", "short", ADMIN)
        put_name(add_host("den", "http://den.test").pk, "quick", "long", ADMIN)

    def test_keep_a_profile_from_changing_how_it_is_loaded(self, host: Host) -> None:
        set_clients(host.pk, ADMIN, names={"quick": "short", "other": "short-too"})
        short = ModelProfile.objects.get(name="short")
        with pytest.raises(BadRequest, match="both mean mid-a") as refused:
            config.put_profile({"options": {"num_ctx": 2048}}, ADMIN, short.pk)
        assert refused.value.field == "options"
        config.put_profile({"options": {"num_ctx": 4096, "top_k": 5}}, ADMIN, short.pk)
        config.put_profile({"options": {"num_ctx": 2048}, "tag": "tiny-a"}, ADMIN, short.pk)


@pytest.mark.fact(28)
async def test_no_prompt_leaves_through_a_cloud_model_that_is_not_allowed(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(set_active, host, Spec("", "big:1t-cloud"))
    reply = await ask({**HELLO, "model": "any"}, target=OPENAI).end()
    assert (reply.status, reply.json()["error"]["code"]) == (403, "not_allowed")
    assert not upstream.received
    await in_thread(config.put_host, {"allows_cloud": True}, ADMIN, host.pk)
    await route_cache.current().routes_as_of_now()
    await asked(upstream, OPENAI)
    assert upstream.received
