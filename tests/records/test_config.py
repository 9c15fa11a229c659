"""Hosts and profiles: each change with its entry, and nothing deleted that is in use."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from switcher.audit.ledger import Actor
from switcher.domain.errors import BadRequest, Conflict, NotFound
from switcher.domain.observed import Observation
from switcher.domain.states import State
from switcher.models import (
    AuditEntry,
    Host,
    LearnedSize,
    Lease,
    ModelProfile,
    Pin,
    Reading,
    SwitchEvent,
)
from switcher.queries.keys import all_keys
from switcher.records import config, keys, memory, readings
from switcher.records.keys import NewKey
from switcher.records.memory import learn_sizes
from tests import make
from tests.clocks import FakeClock
from tests.records.conftest import ANNA, BEN, at_once, bodies, ended, lead_to, open_one, take

pytestmark = pytest.mark.django_db(transaction=True)

HOST = {"name": "north-1", "base_url": "http://127.0.0.1:9"}
SOUTH = {"name": "south-1", "base_url": "http://127.0.0.1:8"}
PROFILE: dict[str, Any] = {"name": "mid-a", "tag": "mid-a", "keep_alive": "30m"}


def kinds() -> list[str]:
    return list(AuditEntry.objects.order_by("pk").values_list("kind", flat=True))


def add_host(name: str, **values: Any) -> Host:
    pk = config.put_host({"name": name, "base_url": f"http://{name}.test"}, ANNA, **values)
    return Host.objects.get(pk=pk)


# --- profiles --------------------------------------------------------------------------------


def test_a_new_profile_leaves_an_entry_with_all_that_it_is(db: None) -> None:
    assert config.put_profile(PROFILE | {"options": {"num_ctx": 8192}}, ANNA) == "mid-a"
    (body,) = bodies(kind="profile.added")
    assert (body["actor"], body["source"], body["profile"]) == ("anna", "page", "mid-a")
    assert body["before"] == {}
    assert body["after"]["options"] == {"num_ctx": 8192}
    assert body["after"]["tag"] == "mid-a"


def test_a_change_says_what_was_and_what_is_and_nothing_else(profile: ModelProfile) -> None:
    config.put_profile({"keep_alive": "1h", "notes": ""}, BEN, profile.pk)
    (body,) = bodies(kind="profile.changed")
    assert (body["before"], body["after"]) == ({"keep_alive": "30m"}, {"keep_alive": "1h"})
    assert body["actor"] == "ben"


def test_what_changes_nothing_leaves_no_entry(profile: ModelProfile) -> None:
    config.put_profile({"keep_alive": profile.keep_alive}, BEN, profile.pk)
    assert kinds() == ["profile.added"]


def test_two_profiles_never_share_a_name(profile: ModelProfile) -> None:
    with pytest.raises(BadRequest, match="a profile named mid-a already") as caught:
        config.put_profile(PROFILE, ANNA)
    assert caught.value.field == "name"
    assert ModelProfile.objects.count() == 1
    assert kinds() == ["profile.added"], "no entry of what did not happen"


def test_of_two_that_take_a_name_at_once_one_has_it(db: None) -> None:
    results = at_once(*(partial(config.put_profile, PROFILE, ANNA) for _ in range(4)))
    assert results.count("mid-a") == 1
    assert sum(isinstance(r, BadRequest) for r in results) == 3
    assert kinds() == ["profile.added"]


def test_changing_what_was_deleted_meanwhile_is_said(db: None) -> None:
    with pytest.raises(NotFound):
        config.put_profile(PROFILE, ANNA, 4711)
    with pytest.raises(NotFound):
        config.delete_profile(4711, ANNA)


def test_a_profile_that_nothing_uses_is_deleted_and_what_it_was_is_kept(
    profile: ModelProfile,
) -> None:
    config.delete_profile(profile.pk, BEN)
    assert not ModelProfile.objects.exists()
    (body,) = bodies(kind="profile.deleted")
    assert (body["profile"], body["before"]["tag"]) == ("mid-a", "mid-a")


def test_an_active_profile_is_in_use(host: Host, profile: ModelProfile) -> None:
    Host.objects.update(active_profile=profile)
    with pytest.raises(Conflict, match="mid-a is in use on north-1"):
        config.delete_profile(profile.pk, ANNA)


def test_a_pinned_profile_is_in_use(host: Host, profile: ModelProfile) -> None:
    config.set_pinned(host, [profile], ANNA)
    with pytest.raises(Conflict, match="in use on north-1"):
        config.delete_profile(profile.pk, ANNA)


def test_a_profile_that_is_being_switched_to_is_in_use(
    host: Host, profile: ModelProfile, clock: FakeClock
) -> None:
    open_one(host, clock, profile_id=profile.pk)
    with pytest.raises(Conflict, match="in use on north-1"):
        config.delete_profile(profile.pk, ANNA)
    assert "profile.deleted" not in kinds()


def test_the_past_uses_no_profile(host: Host, profile: ModelProfile, clock: FakeClock) -> None:
    row = ended(host, clock, profile_id=profile.pk)
    config.delete_profile(profile.pk, ANNA)
    assert SwitchEvent.objects.get(pk=row.pk).to_profile_id == profile.pk


def test_a_removed_host_uses_no_profile(host: Host, profile: ModelProfile) -> None:
    config.set_pinned(host, [profile], ANNA)
    Host.objects.update(active_profile=profile, active_tag="mid-a")
    config.remove_host(host.pk, ANNA)
    config.delete_profile(profile.pk, ANNA)
    assert not ModelProfile.objects.exists()
    assert Host.objects.get().active_tag == "mid-a", "what was active then stays written"


def test_a_profile_that_a_key_is_bound_to_is_in_use(profile: ModelProfile) -> None:
    """To a key whose profile were gone an empty list would be left."""
    key_id, token = keys.make_key(NewKey("chat-ui", profiles=("mid-a",)), ANNA)
    named = re.escape(f"keys are bound to mid-a: chat-ui ({token[:10]}…). Turn them off first")
    with pytest.raises(Conflict, match=named):
        config.delete_profile(profile.pk, ANNA)
    assert ModelProfile.objects.exists()
    keys.turn_off(key_id, ANNA)
    config.delete_profile(profile.pk, ANNA)
    assert [(k.all_profiles, k.profiles) for k in all_keys()] == [(False, ())]


def test_a_key_that_has_expired_uses_no_profile(profile: ModelProfile, clock: FakeClock) -> None:
    until = clock.now() + timedelta(hours=1)
    keys.make_key(NewKey("bot", profiles=("mid-a",), expires_at=until), ANNA, clock)
    with pytest.raises(Conflict, match="bot"):
        config.delete_profile(profile.pk, ANNA, clock)
    clock.sleep(3600)
    config.delete_profile(profile.pk, ANNA, clock)


def test_a_key_for_all_profiles_uses_none(profile: ModelProfile) -> None:
    keys.make_key(NewKey("bot"), ANNA)
    config.delete_profile(profile.pk, ANNA)


# --- hosts -----------------------------------------------------------------------------------


def test_the_first_host_is_the_default_and_the_next_is_not(db: None) -> None:
    first, second = add_host("north-1"), add_host("south-1")
    assert (first.is_default, second.is_default) == (True, False)
    assert Lease.objects.count() == 2


def test_a_host_can_be_made_the_default_and_there_is_only_one(db: None) -> None:
    first, second = add_host("north-1"), add_host("south-1")
    config.put_host({}, BEN, second.pk, default=True)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.is_default, second.is_default) == (False, True)
    assert bodies(kind="host.default")[0]["host"] == "south-1"
    assert "host.changed" not in kinds()


def test_many_that_make_a_default_at_once_leave_one(db: None) -> None:
    hosts = [add_host(f"host-{n}") for n in range(4)]
    at_once(*(partial(config.make_default, h, ANNA) for h in hosts))
    assert Host.objects.filter(is_default=True).count() == 1


def test_a_host_that_changes_keeps_what_an_admin_does_not_set(
    host: Host, profile: ModelProfile
) -> None:
    stale_form = Host.objects.get()
    Host.objects.update(active_tag="mid-a", active_digest="sha-a", degraded="It was.")
    stale_form.keep_alive = "1h"
    config.save_host(stale_form, BEN)
    host.refresh_from_db()
    assert (host.active_tag, host.active_digest, host.degraded) == ("mid-a", "sha-a", "It was.")
    (body,) = bodies(kind="host.changed")
    assert (body["before"], body["after"]) == ({"keep_alive": "30m"}, {"keep_alive": "1h"})


def test_a_host_saved_as_it_was_leaves_no_entry(host: Host) -> None:
    config.save_host(host, BEN)
    config.set_pinned(host, [], BEN)
    assert kinds() == ["host.added"]


def test_two_hosts_never_share_a_name(host: Host) -> None:
    with pytest.raises(BadRequest, match="a host named north-1 already"):
        add_host("north-1")
    assert kinds() == ["host.added"]


def test_pinned_models_are_an_entry_with_before_and_after(
    host: Host, profile: ModelProfile
) -> None:
    config.put_host({}, BEN, host.pk, pinned=["mid-a", "nowhere"])
    config.put_host({}, BEN, host.pk, pinned=["mid-a"])
    config.put_host({}, BEN, host.pk)
    (body,) = bodies(kind="host.preloaded")
    assert (body["before"], body["after"]) == ([], ["mid-a"])


def test_a_host_whose_saving_fails_half_way_is_as_before(
    host: Host, profile: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **values: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(config, "set_pinned", fail)
    with pytest.raises(OSError, match="disk"):
        config.put_host({"keep_alive": "2h"}, BEN, host.pk, pinned=["mid-a"])
    host.refresh_from_db()
    assert host.keep_alive == "30m"
    assert kinds() == ["host.added", "profile.added"]


@pytest.mark.parametrize(
    "act",
    [
        lambda host, profile: config.put_host({"keep_alive": "2h"}, BEN, host.pk),
        lambda host, profile: config.put_host(
            {"name": "south-1", "base_url": "http://127.0.0.1:8"}, BEN
        ),
        lambda host, profile: config.put_profile({"keep_alive": "2h"}, BEN, profile.pk),
        lambda host, profile: config.put_profile(PROFILE | {"name": "x"}, BEN),
        lambda host, profile: config.delete_profile(profile.pk, BEN),
        lambda host, profile: config.set_pinned(host, [profile], BEN),
        lambda host, profile: config.make_default(host, BEN),
        lambda host, profile: config.remove_host(host.pk, BEN),
    ],
)
def test_a_change_whose_entry_cannot_be_written_did_not_happen(
    host: Host, profile: ModelProfile, act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything() -> list[Any]:
        tables = (Host, ModelProfile, Lease, Host.pinned.through, AuditEntry)
        return [list(t.objects.order_by("pk").values()) for t in tables]

    def fail(*args: object, **values: object) -> None:
        raise OSError("the disk is full")

    before = everything()
    monkeypatch.setattr(config, "append", fail)
    with pytest.raises(OSError, match="disk"):
        act(host, profile)
    assert everything() == before


def test_removing_a_host_keeps_its_history_and_frees_its_name(host: Host, clock: FakeClock) -> None:
    row = ended(host, clock)
    config.remove_host(host.pk, BEN, clock)
    again = add_host("north-1")
    assert again.pk != host.pk
    assert again.is_default
    assert SwitchEvent.objects.get(pk=row.pk).host.name == "north-1"
    assert bodies(kind="host.removed")[0]["host"] == "north-1"
    with pytest.raises(NotFound):
        config.remove_host(host.pk, BEN)
    with pytest.raises(NotFound):
        config.put_host({}, BEN, host.pk)


def test_the_next_host_inherits_the_default_and_an_entry_says_so(db: None) -> None:
    first, second = add_host("north-1"), add_host("south-1")
    config.remove_host(first.pk, BEN)
    second.refresh_from_db()
    assert second.is_default
    assert kinds()[-2:] == ["host.removed", "host.default"]
    assert bodies(kind="host.default")[0]["host"] == "south-1"


def test_removing_another_host_leaves_the_default(db: None) -> None:
    first, second = add_host("north-1"), add_host("south-1")
    config.remove_host(second.pk, BEN)
    first.refresh_from_db()
    assert first.is_default
    assert "host.default" not in kinds()


@pytest.mark.parametrize("state", [State.QUEUED, State.LOADING, State.RESTORING])
def test_a_host_that_switches_is_neither_removed_nor_moved(
    host: Host, clock: FakeClock, state: State
) -> None:
    lead_to(take(open_one(host, clock), clock), state)
    with pytest.raises(Conflict, match="north-1 is switching"):
        config.remove_host(host.pk, BEN)
    with pytest.raises(Conflict, match="north-1 is switching"):
        config.put_host({"base_url": "http://127.0.0.1:10"}, BEN, host.pk)
    host.refresh_from_db()
    assert (host.removed_at, host.base_url) == (None, "http://127.0.0.1:9")
    config.put_host({"keep_alive": "2h"}, BEN, host.pk)


def test_what_another_address_held_is_forgotten(host: Host, clock: FakeClock) -> None:
    readings.store(host.pk, Observation(clock.now(), version="0.12.3"), 0)
    config.set_pinned(host, [make.profile("embed")], BEN)
    Pin.objects.update(digest="sha-embed")
    config.put_host({"keep_alive": "2h"}, BEN, host.pk)
    assert Reading.objects.get().version == "0.12.3"
    assert Pin.objects.get().digest == "sha-embed"
    config.put_host({"base_url": "http://127.0.0.1:10"}, BEN, host.pk)
    assert not Reading.objects.exists()
    assert Pin.objects.get().digest == ""


def test_a_persons_colours_are_their_own_and_no_fact(db: None) -> None:
    user = make.user("anna")
    config.save_theme(user.pk, "dark")
    config.save_theme(user.pk, "light")
    assert user.preference.theme == "light"
    with pytest.raises(BadRequest):
        config.save_theme(user.pk, "pink")
    assert kinds() == []


def test_who_acts_without_an_address_leaves_no_origin(host: Host, clock: FakeClock) -> None:
    row = open_one(host, clock, actor=Actor("server", "server"))
    assert row.origin is None


@pytest.mark.parametrize(
    "address", ["http://localhost:9", "http://[::1]:9", "http://0.0.0.0:9", "http://127.0.0.1:9/"]
)
def test_another_spelling_of_a_hosts_address_is_refused_by_name(address: str) -> None:
    config.put_host(HOST, ANNA)
    with pytest.raises(BadRequest, match=r"is host north-1 already, at http://127\.0\.0\.1:9\."):
        config.put_host({"name": "south-1", "base_url": address}, ANNA)
    other = config.put_host({"name": "south-1", "base_url": "http://127.0.0.1:8"}, ANNA)
    with pytest.raises(BadRequest, match="is host north-1 already"):
        config.put_host({"base_url": address}, ANNA, other)


def test_hosts_that_shared_an_address_before_can_still_be_changed() -> None:
    config.put_host(HOST, ANNA)
    other = config.put_host({"name": "south-1", "base_url": "http://127.0.0.1:8"}, ANNA)
    Host.objects.filter(pk=other).update(base_url="http://localhost:9")
    config.put_host({"keep_alive": "2h"}, ANNA, other)
    assert Host.objects.get(pk=other).keep_alive == "2h"


def test_the_address_of_a_removed_host_is_free() -> None:
    config.remove_host(config.put_host(HOST, ANNA), ANNA)
    config.put_host({"name": "south-1", "base_url": "http://localhost:9"}, ANNA)


def test_what_was_learned_of_a_server_is_forgotten_with_its_address() -> None:
    """Another server has its own limits, and its own memory for each context."""
    host = make.host()
    Host.objects.filter(pk=host.pk).update(learned_max_loaded=1)
    learn_sizes(host.pk, [make.resident("mid-a")], make.NOW)
    config.put_host({"base_url": "http://elsewhere.test:11434"}, ANNA, host.pk)
    host.refresh_from_db()
    assert host.learned_max_loaded is None
    assert not LearnedSize.objects.exists()


def test_what_is_learned_is_bounded_and_the_oldest_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "MAX_SIZES", 2)
    host = make.host()
    for minutes, context in enumerate((2048, 4096, 8192)):
        seen = make.resident("mid-a", context_length=context)
        learn_sizes(host.pk, [seen], make.NOW + timedelta(minutes=minutes))
    kept = LearnedSize.objects.order_by("context_length").values_list("context_length", flat=True)
    assert list(kept) == [4096, 8192]
