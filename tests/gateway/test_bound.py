"""Keys that are bound: what they were bound to may go away, which never opens anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from switcher.gateway import table
from switcher.models import Host, ModelProfile
from switcher.queries.desired import spec_of
from switcher.records import config
from switcher.switching.waiting import in_thread
from tests import make
from tests.gateway.conftest import ADMIN, Upstream, add_host, set_active
from tests.gateway.test_keys import make_key, with_key


async def change(act: Callable[..., Any], *values: Any) -> None:
    """Change something, and wait until this process's table knows."""
    await in_thread(act, *values)
    await table.table().routes_after_now()


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
