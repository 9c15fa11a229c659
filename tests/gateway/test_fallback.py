"""Keys that list what comes next when their model is not loaded anywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from switcher.concurrency.threads import in_thread
from switcher.domain.errors import BadRequest, NotFound
from switcher.gateway import fallback, route_cache
from switcher.models import Host, ModelProfile, Usage
from switcher.records import keys
from switcher.records.keys import NewKey
from tests import make
from tests.gateway.conftest import ADMIN, HELLO, Exchange, Upstream, add_host, ask
from tests.gateway.test_api_styles import set_policy


@pytest.fixture(autouse=True)
def _always_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "VALID_S", 0.0)


@pytest_asyncio.fixture
async def another(host: Host) -> AsyncIterator[Upstream]:
    """A second host, named den, on which mid-b is active."""
    made = Upstream()
    site = web.Application()
    site.router.add_route("*", "/{path:.*}", made.handle)
    server = TestServer(site)
    await server.start_server(shutdown_timeout=0)
    made.url = str(server.make_url("")).rstrip("/")
    await in_thread(add_host, "den", made.url, "mid-b")
    yield made
    await server.close()


def holds(upstream: Upstream, *tags: str) -> None:
    """Let a host list these models as loaded."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/api/ps":
            rows = [{"name": f"{tag}:latest", "digest": f"sha-{tag}"} for tag in tags]
            return web.json_response({"models": rows})
        return await upstream.completion(request)

    upstream.answer = answer


def make_key(*falls_back_to: str, **facts: Any) -> str:
    for tag in falls_back_to:
        make.profile(tag)
    return keys.make_key(NewKey("bot", fallback=falls_back_to, **facts), ADMIN)[1]


def send(token: str, **values: Any) -> Exchange:
    return ask(client="192.0.2.7", Authorization=f"Bearer {token}", **values)


def asked(upstream: Upstream) -> list[str]:
    """Return the models of the chats that reached a host."""
    return [upstream.body(n)["model"] for n, r in enumerate(upstream.received) if "chat" in r[0]]


async def test_the_first_profile_that_is_loaded_answers_and_is_named(
    host: Host, upstream: Upstream
) -> None:
    holds(upstream, "tiny", "small")
    token = await in_thread(make_key, "huge", "small", "tiny")
    reply = await send(token).end()
    assert (reply.status, asked(upstream)) == (200, ["small"])
    assert reply.headers["x-switchboard-model"] == "small"
    assert reply.headers["x-switchboard-fallback"] == "mid-a"


async def test_a_model_that_is_loaded_answers_itself(host: Host, upstream: Upstream) -> None:
    holds(upstream, "mid-a", "small")
    token = await in_thread(make_key, "small")
    reply = await send(token).end()
    assert (asked(upstream), "x-switchboard-fallback" in reply.headers) == (["mid-a"], False)


async def test_if_none_is_loaded_the_request_goes_to_its_own_model(
    host: Host, upstream: Upstream
) -> None:
    holds(upstream)
    token = await in_thread(make_key, "small")
    reply = await send(token).end()
    assert (asked(upstream), "x-switchboard-fallback" in reply.headers) == (["mid-a"], False)


async def test_without_a_list_nothing_is_asked_of_the_host(host: Host, upstream: Upstream) -> None:
    holds(upstream)
    token = await in_thread(make_key)
    await send(token).end()
    assert [path for path, _, _ in upstream.received] == ["/v1/chat/completions"]


async def test_another_host_with_the_same_model_comes_before_another_model(
    host: Host, upstream: Upstream, another: Upstream
) -> None:
    await in_thread(set_policy, host, "names", quick="mid-b")
    holds(upstream, "small")
    holds(another, "mid-b")
    token = await in_thread(make_key, "small")
    reply = await send(token, body={**HELLO, "model": "quick"}).end()
    assert (reply.status, asked(upstream), asked(another)) == (200, [], ["mid-b"])
    assert "x-switchboard-fallback" not in reply.headers


async def test_the_next_model_may_be_on_another_host(
    host: Host, upstream: Upstream, another: Upstream
) -> None:
    holds(upstream)
    holds(another, "mid-b")
    token = await in_thread(make_key, "mid-b")
    reply = await send(token).end()
    assert (reply.status, asked(upstream), asked(another)) == (200, [], ["mid-b"])
    assert reply.headers["x-switchboard-fallback"] == "mid-a"


async def test_a_host_that_is_away_is_replaced(
    host: Host, upstream: Upstream, another: Upstream
) -> None:
    await in_thread(lambda: Host.objects.filter(pk=host.pk).update(base_url="http://127.0.0.1:9"))
    holds(another, "mid-b")
    token = await in_thread(make_key, "mid-b")
    assert ((await send(token).end()).status, asked(another)) == (200, ["mid-b"])


async def test_a_host_without_an_active_model_is_replaced(
    host: Host, upstream: Upstream, another: Upstream
) -> None:
    await in_thread(lambda: Host.objects.filter(pk=host.pk).update(active_tag=""))
    holds(upstream)
    holds(another, "mid-b")
    token = await in_thread(make_key, "mid-b")
    reply = await send(token).end()
    assert (reply.status, asked(another)) == (200, ["mid-b"])
    assert reply.headers["x-switchboard-fallback"] == "no active model"


@pytest.mark.parametrize("named", [False, True])
async def test_neither_key_nor_named_host_is_left(
    host: Host, upstream: Upstream, another: Upstream, named: bool
) -> None:
    holds(upstream)
    holds(another, "mid-b")
    facts: dict[str, Any] = {} if named else {"hosts": ("tower",)}
    token = await in_thread(lambda: make_key("mid-b", **facts))
    headers = {"X_Switchboard_Host": "tower"} if named else {}
    assert (await send(token, **headers).end()).status == 200
    assert (asked(upstream), asked(another)) == (["mid-a"], [])


async def test_a_deleted_profile_is_skipped(host: Host, upstream: Upstream) -> None:
    holds(upstream, "small")
    token = await in_thread(make_key, "gone", "small")
    await in_thread(lambda: ModelProfile.objects.filter(name="gone").delete())
    assert (await send(token).end()).headers["x-switchboard-model"] == "small"


async def test_a_request_to_embed_does_not_fall_back(host: Host, upstream: Upstream) -> None:
    holds(upstream, "small")
    token = await in_thread(make_key, "small")
    reply = await send(token, target="/v1/embeddings", body={"input": "x"}).end()
    assert reply.headers["x-switchboard-model"] == "mid-a"


async def test_a_fallback_is_counted(host: Host, upstream: Upstream) -> None:
    holds(upstream, "small")
    token = await in_thread(make_key, "small")
    await send(token).end()
    await route_cache.close_current()
    row = await in_thread(Usage.objects.get)
    assert (row.model, row.requests, row.fallbacks) == ("small", 1, 1)


@pytest.mark.django_db
def test_a_key_falls_back_only_to_profiles_that_exist_and_that_it_is_valid_for() -> None:
    make.profile("small")
    make.profile("tiny")
    with pytest.raises(NotFound):
        keys.make_key(NewKey("bot", fallback=("nowhere",)), ADMIN)
    with pytest.raises(BadRequest):
        keys.make_key(NewKey("bot", profiles=("small",), fallback=("tiny",)), ADMIN)
