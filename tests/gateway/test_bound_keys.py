"""Keys bound to hosts and profiles: when those go away, a key never opens anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.model_names import ModelName
from switcher.domain.specs import Spec
from switcher.gateway import route_cache
from switcher.models import Host, ModelProfile
from switcher.records import config
from switcher.records.clients import set_clients
from tests import make
from tests.gateway.conftest import ADMIN, Upstream, add_host, set_active
from tests.gateway.test_keys import make_key, with_key


async def change(act: Callable[..., Any], *values: Any) -> None:
    """Change something, and wait until the route cache has seen it."""
    await in_thread(act, *values)
    await route_cache.current().routes_as_of_now()


def activate(host: Host, profile: ModelProfile) -> None:
    set_active(host, Spec.of_profile(profile))
    Host.objects.filter(pk=host.pk).update(active_profile=profile)


async def test_a_key_whose_profile_was_deleted_gets_no_model(
    host: Host, upstream: Upstream
) -> None:
    """Deleted past all checks, as by hand in the database."""
    small = await in_thread(make.profile, "tiny-a", "small")
    token = await in_thread(make_key, profiles=("small",))
    await in_thread(small.delete)
    await change(make.profile, "mid-a")  # writes an entry, so that the cache is refreshed
    reply = await with_key(token).end()
    assert (reply.status, reply.json()["error"]["code"]) == (403, "not_allowed")
    assert not upstream.received


async def test_a_key_whose_host_was_removed_opens_no_other_host(
    host: Host, upstream: Upstream
) -> None:
    den = await in_thread(add_host, "den", f"{upstream.url}/den", "mid-b")
    token = await in_thread(make_key, hosts=("den",))
    await change(config.remove_host, den.pk, ADMIN)
    assert (await with_key(token).end()).status == 403, "not the default host"
    await change(add_host, "den", f"{upstream.url}/den", "mid-b")
    reply = await with_key(token, target="/v1/chat/completions?host=den").end()
    assert reply.status == 403, "nor one that took the name"
    assert not upstream.received


async def test_a_key_for_two_hosts_keeps_the_one_that_is_left(
    host: Host, upstream: Upstream
) -> None:
    den = await in_thread(add_host, "den", f"{upstream.url}/den", "mid-b")
    token = await in_thread(make_key, hosts=("den", "tower"))
    await change(config.remove_host, den.pk, ADMIN)
    reply = await with_key(token).end()
    assert (reply.status, reply.headers["x-switchboard-model"]) == (200, "mid-a")


async def test_a_key_follows_its_profile_to_a_new_name_and_not_the_old_name(
    host: Host, upstream: Upstream
) -> None:
    small = await in_thread(make.profile, "mid-a", "small")
    await in_thread(activate, host, small)
    token = await in_thread(make_key, profiles=("small",))
    assert (await with_key(token).end()).status == 200
    await change(config.put_profile, {"name": "smaller"}, ADMIN, small.pk)
    assert (await with_key(token).end()).status == 200
    await in_thread(make.profile, "tiny-a", "small")
    other = await in_thread(make_key, profiles=("small",))
    assert (await with_key(other).end()).status == 403


LISTED: list[tuple[str, Callable[[Any], list[str]]]] = [
    ("/v1/models", lambda body: [row["id"] for row in body["data"]]),
    ("/api/tags", lambda body: [row["name"] for row in body["models"]]),
    ("/api/ps", lambda body: [row["name"] for row in body["models"]]),
]


async def has_three(request: web.Request) -> web.StreamResponse:
    rows = [{"name": name, "model": name} for name in ("mid-a:latest", "tiny-a:latest", "tiny-b")]
    return web.json_response({"models": rows})


def serves_by_name(host: Host, policy: str = "names") -> str:
    """Make alias `quick` for profile small, and return a key for that profile alone."""
    make.profile("tiny-a", "small")
    make.profile("tiny-b", "other")
    names = {"quick": "small", "slow": "other"}
    set_clients(host.pk, ADMIN, policy=policy, names=names)
    return make_key(profiles=("small",))


@pytest.mark.parametrize(("path", "names_of"), LISTED)
async def test_lists_show_only_models_that_the_key_may_use(
    host: Host, upstream: Upstream, path: str, names_of: Callable[[Any], list[str]]
) -> None:
    upstream.answer = has_three
    token = await in_thread(serves_by_name, host)
    listed = names_of((await with_key(token, target=path, method="GET").end()).json())
    name = "tiny-a" if path == "/api/ps" else "quick"
    assert [ModelName.parse(n) for n in listed] == [ModelName.parse(name)]
    wide = await in_thread(make_key)
    assert len(names_of((await with_key(wide, target=path, method="GET").end()).json())) > 1


async def test_one_model_is_shown_only_if_the_key_may_use_it(
    host: Host, upstream: Upstream
) -> None:
    token = await in_thread(serves_by_name, host)
    for name, status in (("quick", 200), ("slow", 404), ("mid-a", 404)):
        reply = await with_key(token, target=f"/v1/models/{name}", method="GET").end()
        assert reply.status == status, name


async def test_show_is_refused_for_models_that_the_key_may_not_use(
    host: Host, upstream: Upstream
) -> None:
    token = await in_thread(serves_by_name, host)
    assert (await with_key(token, body={"model": "quick"}, target="/api/show").end()).status == 200
    asked = len(upstream.received)
    for name in ("slow", "mid-a", "anything"):
        reply = await with_key(token, body={"model": name}, target="/api/show").end()
        assert (reply.status, "is not valid for" in reply.json()["error"]) == (403, True), name
    assert len(upstream.received) == asked


async def test_an_unknown_name_is_answered_with_the_keys_own_names(
    host: Host, upstream: Upstream
) -> None:
    token = await in_thread(serves_by_name, host, "strict")
    reply = await with_key(token).end()
    assert reply.status == 404
    assert reply.json()["error"]["message"].endswith("tower serves: quick.")
