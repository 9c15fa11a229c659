"""Requests that the active model cannot answer, such as embeddings while a chat model is active."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.models import Host, ModelProfile
from switcher.ollama import relay
from switcher.records import config, keys
from switcher.records.keys import NewKey
from tests import make
from tests.gateway.conftest import ADMIN, Upstream, add_host, ask, listed, set_active
from tests.gateway.test_api_styles import set_policy
from tests.simulated import SimulatedOllama

EMBEDS = ["/v1/embeddings", "/api/embed", "/api/embeddings"]
CAN = {"mid-a": ["completion"], "tiny": ["completion"], "embed": ["embedding"], "other": []}


class Hosted:
    """Answers as a host whose models can do what CAN says."""

    def __init__(self, upstream: Upstream, **can: list[str]) -> None:
        self.upstream = upstream
        self.can = CAN | {name.replace("_", "-"): what for name, what in can.items()}
        upstream.answer = self.answer

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/api/tags":
            rows = [listed(name, capabilities=can) for name, can in self.can.items()]
            return web.json_response({"models": rows})
        model = (await request.json())["model"]
        if request.path == "/api/show":
            return web.json_response({"capabilities": self.can[model]})
        if "embedding" in self.can[model]:
            return web.json_response({"embeddings": [[0.5]], "model": model})
        return web.json_response({"error": "this model does not embed"}, status=501)

    def asked(self) -> list[str]:
        return [path for path, _, _ in self.upstream.received]


def pin(host: Host, *tags: str, **values: Any) -> None:
    profiles = [make.profile(tag, **values) for tag in tags]
    config.set_pinned(host, profiles, ADMIN)


@pytest.mark.parametrize("path", EMBEDS)
@pytest.mark.parametrize("asked", ["embed", "text-embedding-3-small"])
async def test_embeddings_come_from_a_pinned_model_that_can_embed(
    host: Host, upstream: Upstream, path: str, asked: str
) -> None:
    Hosted(upstream)
    await in_thread(pin, host, "tiny", "embed")
    reply = await ask({"model": asked, "input": "x"}, target=path).end()
    assert (reply.status, reply.headers["x-switchboard-model"]) == (200, "embed")
    assert upstream.body()["model"] == "embed"


async def test_it_is_sent_with_the_runner_options_of_its_own_profile(
    host: Host, upstream: Upstream
) -> None:
    Hosted(upstream)
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    await in_thread(pin, host, "embed", options={"num_ctx": 512})
    reply = await ask({"model": "x", "input": "x"}, target="/v1/embeddings").end()
    assert (reply.status, upstream.body()["options"]) == (200, {"num_ctx": 512})


@pytest.mark.fact(20)
async def test_nothing_leaves_through_a_pinned_profile_that_became_a_cloud_models(
    host: Host, upstream: Upstream
) -> None:
    hosted = Hosted(upstream)
    hosted.can["big:1t-cloud"] = ["embedding"]
    await in_thread(pin, host, "embed")
    # As earlier releases allowed.
    await in_thread(lambda: ModelProfile.objects.filter(name="embed").update(tag="big:1t-cloud"))
    reply = await ask({"model": "x", "input": "x"}, target="/v1/embeddings").end()
    assert (reply.status, reply.json()["error"]["code"]) == (403, "not_allowed")
    assert "/v1/embeddings" not in hosted.asked()


async def test_several_pinned_ones_answer_by_name(host: Host, upstream: Upstream) -> None:
    Hosted(upstream, also=["embedding"])
    await in_thread(pin, host, "also", "embed")
    for asked, answers in (("embed:latest", "embed"), ("also", "also"), ("x", "also")):
        await ask({"model": asked, "input": "x"}, target="/api/embed").end()
        assert upstream.body()["model"] == answers


async def test_an_active_model_that_can_embed_does_so_itself(
    host: Host, upstream: Upstream
) -> None:
    Hosted(upstream)
    await in_thread(set_active, host, Spec("", "embed"))
    await in_thread(pin, host, "tiny")
    reply = await ask({"model": "x", "input": "x"}, target="/api/embed").end()
    assert reply.headers["x-switchboard-model"] == "embed"


async def test_a_host_that_does_not_tell_capabilities_is_asked_as_before(
    host: Host, upstream: Upstream
) -> None:
    Hosted(upstream, mid_a=[])
    await in_thread(pin, host, "other")
    reply = await ask({"model": "x", "input": "x"}, target="/api/embed").end()
    assert upstream.received[1][0] == "/api/embed"
    assert reply.status == 400


@pytest.mark.parametrize("path", EMBEDS)
@pytest.mark.parametrize("pinned", [[], ["tiny"]])
async def test_without_one_a_400_says_what_to_pin(
    host: Host, upstream: Upstream, path: str, pinned: list[str]
) -> None:
    Hosted(upstream)
    await in_thread(pin, host, *pinned)
    reply = await ask({"model": "embed", "input": "x"}, target=path).end()
    error = reply.json()["error"]
    text = error if path.startswith("/api") else error["message"]
    assert reply.status == 400
    assert "mid-a, which answers on tower, cannot embed. Pin the profile of a model" in text
    assert "embed" in text.split("Installed there: ")[1]


async def test_names_that_the_policy_knows_are_left_alone(host: Host, upstream: Upstream) -> None:
    Hosted(upstream)
    await in_thread(pin, host, "embed")
    await in_thread(set_policy, host, "names", quick="tiny")
    reply = await ask({"model": "quick", "input": "x"}, target="/api/embed").end()
    assert (reply.status, reply.json()["error"][:5]) == (400, "tiny,")
    reply = await ask({"model": "x", "input": "x"}, target="/api/embed").end()
    assert reply.headers["x-switchboard-model"] == "embed"


async def test_a_strict_host_knows_no_other_names(host: Host, upstream: Upstream) -> None:
    Hosted(upstream)
    await in_thread(pin, host, "embed")
    await in_thread(set_policy, host, "strict")
    assert (await ask({"model": "x", "input": "x"}, target="/api/embed").end()).status == 404


async def test_a_key_gets_no_pinned_model_that_it_is_not_for(
    host: Host, upstream: Upstream
) -> None:
    Hosted(upstream)
    await in_thread(pin, host, "tiny", "embed")
    mine = await in_thread(lambda: keys.make_key(NewKey("a", profiles=("tiny",)), ADMIN)[1])
    theirs = await in_thread(lambda: keys.make_key(NewKey("b", profiles=("embed",)), ADMIN)[1])
    body = {"model": "x", "input": "x"}
    assert (await ask(body, "/api/embed", Authorization=f"Bearer {mine}").end()).status == 403
    assert (await ask(body, "/api/embed", Authorization=f"Bearer {theirs}").end()).status == 200


async def test_a_host_without_an_active_model_embeds_too(host: Host, upstream: Upstream) -> None:
    Hosted(upstream)
    await in_thread(pin, host, "embed")
    await in_thread(lambda: Host.objects.update(active_tag="", active_digest=""))
    assert (await ask({"model": "x", "input": "x"}, target="/api/embed").end()).status == 200
    assert (await ask({"model": "x"}, target="/api/chat").end()).status == 503


async def test_chats_are_never_delayed_by_the_question(host: Host, upstream: Upstream) -> None:
    hosted = Hosted(upstream, mid_a=["completion", "embedding"])
    await in_thread(pin, host, "embed")
    for _ in range(2):
        await ask({"model": "x"}, target="/api/chat").end()
        await ask({"model": "x", "input": "x"}, target="/api/embed").end()
    assert hosted.asked() == ["/api/chat", "/api/show", "/api/embed", "/api/chat", "/api/embed"]


@pytest.mark.parametrize("path", EMBEDS)
async def test_on_a_simulated_host_the_chat_model_stays_as_it_was(
    transactional_db: None, settings: Any, path: str
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = True
    models = ("mid-a=1GB", "embed=100MB,embed")
    with SimulatedOllama(*models, load_rate="50GB", tokens_per_s=500) as simulated:
        host = await in_thread(add_host, "tower", simulated.url, "mid-a")
        await in_thread(pin, host, "embed")
        await in_thread(simulated.load, "mid-a", keep_alive="30m")
        before = await in_thread(simulated.rows)
        try:
            sent = {"model": "nomic-embed-text", "input": "x", "prompt": "x"}
            reply = await ask(sent, target=path).end()
        finally:
            await relay.close()
        after = await in_thread(simulated.rows)
    assert (reply.status, reply.headers["x-switchboard-model"]) == (200, "embed")
    assert after["mid-a"] == before["mid-a"]
    assert "embed" in after
