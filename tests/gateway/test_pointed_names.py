"""Names that somebody has pointed at other content: no prompt leaves, and no other content answers
instead of what was verified."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.gateway import route_cache
from switcher.models import Host, ModelProfile, Pin
from switcher.records import config
from switcher.records.clients import set_clients
from tests import make
from tests.gateway.conftest import ADMIN, HELLO, Exchange, Upstream, ask, listed, set_active

CLOUD = {"remote_host": "https://ollama.com:443", "remote_model": "big:1t"}
OPENAI, ANTHROPIC, OLLAMA = "/v1/chat/completions", "/v1/messages", "/api/chat"
TARGETS = [
    (OPENAI, lambda error: error["code"] == "not_allowed"),
    (ANTHROPIC, lambda error: error["type"] == "permission_error"),
    (OLLAMA, lambda error: "do not allow prompts to leave" in error),
]


def has(upstream: Upstream, *rows: dict[str, Any]) -> None:
    """Let the host list these models, and answer any prompt."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/api/tags":
            return web.json_response({"models": rows})
        return web.json_response({"message": {"content": "Hi"}, "embeddings": [[1]], "done": True})

    upstream.answer = answer


def name_tiny(host: Host) -> None:
    """Let `small` stand for a profile of tiny, which is not active."""
    make.profile("tiny", "small")
    set_clients(host.pk, ADMIN, policy="names", names={"small": "small"})


def say_hello(target: str) -> Exchange:
    return ask({**HELLO, "model": "small", "max_tokens": 5, "stream": False}, target=target)


def calls(upstream: Upstream) -> set[str]:
    return {path for path, _, _ in upstream.received}


@pytest.mark.fact(28)
@pytest.mark.parametrize(("target", "is_refusal"), TARGETS)
@pytest.mark.parametrize("cloud", [CLOUD, {"remote_model": "big:1t"}, {"remote_host": 5}])
async def test_no_prompt_leaves_through_an_alias_whose_model_a_cloud_model_was_copied_over(
    host: Host, upstream: Upstream, target: str, is_refusal: Any, cloud: Any
) -> None:
    await in_thread(name_tiny, host)
    has(upstream, listed("mid-a"), listed("tiny"))
    assert (await say_hello(target).end()).status == 200
    upstream.received.clear()
    has(upstream, listed("mid-a"), listed("tiny", **cloud))
    reply = await say_hello(target).end()
    assert reply.status == 403
    assert is_refusal(reply.json()["error"])
    assert calls(upstream) == {"/api/tags"}


async def test_nothing_is_sent_by_an_alias_if_the_host_does_not_tell_what_it_means(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(name_tiny, host)

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/api/tags":
            return web.json_response({"error": "busy"}, status=500)
        return web.json_response({"message": {"content": "Hi"}, "done": True})

    upstream.answer = answer
    assert (await say_hello(OLLAMA).end()).status == 502
    has(upstream, {"name": "tiny:latest", "digest": None})
    assert (await say_hello(OLLAMA).end()).status == 502
    assert calls(upstream) == {"/api/tags"}


async def test_a_host_that_allows_cloud_models_is_not_asked_what_an_alias_means(
    host: Host, upstream: Upstream
) -> None:
    await in_thread(name_tiny, host)
    await in_thread(config.put_host, {"allows_cloud": True}, ADMIN, host.pk)
    await route_cache.current().routes_as_of_now()
    has(upstream, listed("tiny", **CLOUD))
    assert (await say_hello(OLLAMA).end()).status == 200
    assert calls(upstream) == {OLLAMA}


class TestPinned:
    """A pinned model that was verified, and has left the memory and with that its copy."""

    @pytest.fixture(autouse=True)
    async def _pinned(self, host: Host) -> None:
        def pin() -> None:
            name_tiny(host)
            config.set_pinned(host, list(ModelProfile.objects.filter(name="small")), ADMIN)
            Pin.objects.update(digest="sha-tiny")

        await in_thread(pin)

    @pytest.mark.parametrize("target", [OPENAI, ANTHROPIC, OLLAMA])
    async def test_does_not_answer_with_other_content(
        self, host: Host, upstream: Upstream, target: str
    ) -> None:
        has(upstream, listed("mid-a"), listed("tiny"))
        assert (await say_hello(target).end()).status == 200
        upstream.received.clear()
        has(upstream, listed("mid-a"), listed("tiny", digest="sha-other"))
        reply = await say_hello(target).end()
        assert reply.status == 503
        assert b"tiny means other content now" in reply.body
        assert b"Switch to mid-a again to load it as it is now" in reply.body
        assert calls(upstream) == {"/api/tags"}

    async def test_answers_by_another_name_of_its_content(
        self, host: Host, upstream: Upstream
    ) -> None:
        has(upstream, listed("tiny", digest="sha-other"), listed("kept", digest="sha-tiny"))
        reply = await say_hello(OLLAMA).end()
        assert (reply.status, upstream.body()["model"]) == (200, "kept:latest")

    @pytest.mark.fact(20)
    async def test_does_not_answer_by_a_name_that_leaves_the_host(
        self, host: Host, upstream: Upstream
    ) -> None:
        away = listed("kept", digest="sha-tiny") | {"name": "kept:1t-cloud"}
        has(upstream, listed("tiny", digest="sha-other"), away)
        assert (await say_hello(OLLAMA).end()).status == 503
        assert calls(upstream) == {"/api/tags"}

    async def test_means_what_its_new_model_is_once_the_profile_has_another(
        self, host: Host, upstream: Upstream
    ) -> None:
        small = await in_thread(ModelProfile.objects.get, name="small")
        await in_thread(config.put_profile, {"tag": "mid-b"}, ADMIN, small.pk)
        await in_thread(set_active, host, Spec("", "mid-a"))
        has(upstream, listed("tiny"), listed("mid-b"))
        reply = await say_hello(OLLAMA).end()
        assert (reply.status, upstream.body()["model"]) == (200, "mid-b")
