"""Keys that are bound: what they were bound to may go away, which never opens anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.model_names import ModelName
from switcher.gateway import route_cache
from switcher.models import Host, ModelProfile
from switcher.queries.desired import spec_of
from switcher.records import config
from switcher.records.clients import set_clients
from tests import make
from tests.gateway.conftest import ADMIN, Upstream, add_host, set_active
from tests.gateway.test_keys import make_key, with_key


async def change(act: Callable[..., Any], *values: Any) -> None:
    """Change something, and wait until this process's table knows."""
    await in_thread(act, *values)
    await route_cache.current().routes_as_of_now()


def activate(host: Host, profile: ModelProfile) -> None:
    set_active(host, spec_of(profile))
    Host.objects.filter(pk=host.pk).update(active_profile=profile)


async def test_a_key_whose_profile_is_gone_gets_no_model(host: Host, upstream: Upstream) -> None:
    """Gone past all of our checks, as by hand in the database."""
    small = await in_thread(make.profile, "tiny-a", "small")
    token = await in_thread(make_key, profiles=("small",))
    await in_thread(small.delete)
    await change(make.profile, "mid-a")  # an entry, by which the table is read again
    got = await with_key(token).end()
    assert (got.status, got.json()["error"]["code"]) == (403, "not_allowed")
    assert not upstream.asked


async def test_a_key_whose_host_was_removed_opens_no_other(host: Host, upstream: Upstream) -> None:
    den = await in_thread(add_host, "den", upstream.url, "mid-b")
    token = await in_thread(make_key, hosts=("den",))
    await change(config.remove_host, den.pk, ADMIN)
    assert (await with_key(token).end()).status == 403, "not the default host"
    await change(add_host, "den", upstream.url, "mid-b")
    got = await with_key(token, target="/v1/chat/completions?host=den").end()
    assert got.status == 403, "nor one that took the name"
    assert not upstream.asked


async def test_of_two_hosts_the_one_that_is_left_stays_open(host: Host, upstream: Upstream) -> None:
    den = await in_thread(add_host, "den", upstream.url, "mid-b")
    token = await in_thread(make_key, hosts=("den", "tower"))
    await change(config.remove_host, den.pk, ADMIN)
    got = await with_key(token).end()
    assert (got.status, got.headers["x-switchboard-model"]) == (200, "mid-a")


async def test_a_key_follows_its_profile_to_another_name_and_no_other_that_takes_it(
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
    """`quick` stands for profile small; gives a key for that alone. mid-a is active."""
    make.profile("tiny-a", "small")
    make.profile("tiny-b", "other")
    names = {"quick": "small", "slow": "other"}
    set_clients(host.pk, ADMIN, policy=policy, names=names)
    return make_key(profiles=("small",))


@pytest.mark.parametrize(("path", "names_of"), LISTED)
async def test_lists_have_only_what_the_key_gets(
    host: Host, upstream: Upstream, path: str, names_of: Callable[[Any], list[str]]
) -> None:
    upstream.answer = has_three
    token = await in_thread(serves_by_name, host)
    listed = names_of((await with_key(token, target=path, method="GET").end()).json())
    name = "tiny-a" if path == "/api/ps" else "quick"
    assert [ModelName.parse(n) for n in listed] == [ModelName.parse(name)]
    wide = await in_thread(make_key)
    assert len(names_of((await with_key(wide, target=path, method="GET").end()).json())) > 1


async def test_one_model_is_told_of_only_where_the_key_gets_it(
    host: Host, upstream: Upstream
) -> None:
    token = await in_thread(serves_by_name, host)
    for name, status in (("quick", 200), ("slow", 404), ("mid-a", 404)):
        got = await with_key(token, target=f"/v1/models/{name}", method="GET").end()
        assert got.status == status, name


async def test_a_model_is_shown_as_far_as_it_would_answer(host: Host, upstream: Upstream) -> None:
    token = await in_thread(serves_by_name, host)
    assert (await with_key(token, body={"model": "quick"}, target="/api/show").end()).status == 200
    asked = len(upstream.asked)
    for name in ("slow", "mid-a", "anything"):
        got = await with_key(token, body={"model": name}, target="/api/show").end()
        assert (got.status, "is not for" in got.json()["error"]) == (403, True), name
    assert len(upstream.asked) == asked


async def test_a_name_that_is_none_tells_of_no_other_than_its_own(
    host: Host, upstream: Upstream
) -> None:
    token = await in_thread(serves_by_name, host, "strict")
    got = await with_key(token).end()
    assert got.status == 404
    assert got.json()["error"]["message"].endswith("tower serves: quick.")
