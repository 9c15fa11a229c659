"""The published name: it means the active model, whatever happens, and is never somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from switcher.models import AuditEntry, Host, ModelProfile, SwitchEvent
from switcher.observed import Observation
from switcher.ollama.errors import Refused, Unreachable
from switcher.records import config, leases, readings
from switcher.switching.effects import NotPublished
from switcher.switching.naming import settle_name
from switcher.switching.worker import run_once
from tests.clocks import FakeClock
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost
from tests.switching.test_worker import SCENARIOS, Killed, Killer, Scenario, begin

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., ModelProfile]
Go = Callable[..., SwitchEvent]
NAME = "active:latest"


@pytest.fixture
def published(host: Host) -> Host:
    publish(host, NAME)
    return host


def publish(host: Host, name: str) -> None:
    config.put_host({"published_name": name}, ANNA, host.pk)


def means(fake: FakeHost, name: str = NAME) -> str:
    row = fake.models.get(name)
    return row.digest if row else ""


def settle(host: Host, fake: FakeHost, mend: bool = False) -> None:
    now = datetime.now(UTC)
    loaded, disk = tuple(fake.loaded.values()), tuple(fake.models.values())
    readings.store(host.pk, Observation(now, resident=loaded, installed=disk), 0)
    settle_name(host.pk, ANNA, connect=lambda _: fake, mend=mend)


# --- in a switch -----------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["mid-b", "big"])
def test_it_means_what_became_active(
    fake: FakeHost, published: Host, profile: Make, switch: Go, tag: str
) -> None:
    assert switch(profile("mid-a")).warnings == []
    assert means(fake) == "sha-mid-a"
    row = switch(profile(tag))
    assert (row.state, row.warnings, means(fake)) == ("active", [], f"sha-{tag}")


def test_it_is_pointed_before_the_configuration_changes_and_the_old_model_leaves_after(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.journal.clear()
    active_then = []
    fake.before_act = lambda act: (
        active_then.append(Host.objects.get().active_tag) if act == "copy active:latest" else None
    )
    switch(profile("mid-b"))
    assert active_then == ["mid-a"]
    assert fake.journal.index("copy active:latest") < fake.journal.index("unload mid-a")


def test_each_pointing_is_an_entry_of_the_switch(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    row = switch(profile("mid-b"))
    entry = AuditEntry.objects.filter(kind="name.pointed").latest("seq")
    assert entry.switch_id == row.pk
    facts = entry.facts
    assert (facts["name"], facts["model"], facts["previous"]) == (
        NAME,
        "mid-b:latest",
        "mid-a:latest",
    )


def test_where_it_cannot_be_pointed_the_switch_is_taken_back(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.fail["copy active:latest"] = [Refused("Ollama answered 500: disk full", 500, "disk full")]
    row = switch(profile("mid-b"))
    assert (row.state, row.degraded) == ("rolled_back", False)
    assert "disk full" in row.error
    assert means(fake) == "sha-mid-a"
    assert Host.objects.get().active_tag == "mid-a"


@pytest.mark.parametrize("tag", ["mid-b", "big"])
def test_a_failed_switch_leaves_it_as_it_was(
    fake: FakeHost, published: Host, profile: Make, switch: Go, tag: str
) -> None:
    switch(profile("mid-a"))
    fake.fail[f"warm {tag}"] = [Refused("Ollama answered 500: no", 500, "no")]
    assert switch(profile(tag)).state == "rolled_back"
    assert means(fake) == "sha-mid-a"


def test_a_first_switch_that_fails_late_takes_it_away_again(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    fake.fail["copy active:latest"] = [Refused("Ollama answered 500: no", 500, "no")]
    assert switch(profile("mid-a")).state == "rolled_back"
    assert means(fake) == ""
    assert Host.objects.get().published_as == ""


def test_a_model_of_that_name_that_is_not_ours_is_never_overwritten(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    fake.add("active")
    row = switch(profile("mid-a"))
    assert row.state == "rolled_back"
    assert "has a model active that is not Switchboard's" in row.error
    assert means(fake) == "sha-active"


def test_an_already_active_model_is_published_too(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    row = profile("mid-a")
    switch(row)
    publish(host, NAME)
    assert switch(row).figures["already_active"]
    assert means(fake) == "sha-mid-a"


def test_a_client_that_loads_by_it_does_not_confuse_what_leaves(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    """The server lists the name by which a model was loaded (fact 21)."""
    switch(profile("mid-a"))
    fake.loaded.clear()
    fake.hold("active")
    row = switch(profile("mid-b"))
    assert (row.state, row.warnings) == ("active", [])
    assert set(fake.loaded) == {"sha-mid-b"}


@pytest.mark.parametrize("kind", ["before an act", "after an act", "after a commit"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_switch_that_dies_anywhere_ends_with_name_and_configuration_agreeing(
    db: None, scenario: Scenario, kind: str
) -> None:
    clock = FakeClock()
    for n in range(80):
        fake, row = begin(n, scenario, clock, published=NAME)
        assert means(fake) == "sha-mid-a"
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(kind, n, patch)
            killer.arm(fake)
            try:
                run_once(row.pk, "doomed", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
            except Killed:
                pass
        fake.before_act = fake.after_act = lambda act: None
        if not killer.struck:
            return
        clock.pass_time(leases.LEASE_S)
        run_once(row.pk, "next", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
        host = Host.objects.get(pk=row.host_id)
        assert means(fake) == host.active_digest == host.published_digest, n
    raise AssertionError("it never came through")


# --- between switches ------------------------------------------------------------------------


def test_setting_it_makes_it_and_clearing_it_takes_it_away(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    publish(host, NAME)
    settle(host, fake)
    assert means(fake) == "sha-mid-a"
    publish(host, "chosen:latest")
    settle(host, fake)
    assert (means(fake), means(fake, "chosen:latest")) == ("", "sha-mid-a")
    publish(host, "")
    settle(host, fake)
    assert means(fake, "chosen:latest") == ""
    kinds = AuditEntry.objects.filter(kind__startswith="name.").order_by("seq")
    assert list(kinds.values_list("kind", flat=True)) == [
        "name.pointed",
        "name.withdrawn",
        "name.pointed",
        "name.withdrawn",
    ]


def test_a_name_that_somebody_else_has_made_his_own_is_left_to_him(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.copy("big", NAME)
    publish(published, "")
    settle(published, fake)
    assert means(fake) == "sha-big"
    assert Host.objects.get().published_as == ""


def test_a_name_that_is_taken_is_refused_with_what_to_do(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.add("active")
    publish(host, NAME)
    with pytest.raises(NotPublished, match="Choose another published name"):
        settle(host, fake)
    assert means(fake) == "sha-active"


def test_what_somebody_pointed_elsewhere_is_mended_where_that_is_asked_for(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.copy("big", NAME)
    settle(published, fake)
    assert means(fake) == "sha-big"
    settle(published, fake, mend=True)
    assert means(fake) == "sha-mid-a"
    del fake.models[NAME]
    settle(published, fake, mend=True)
    assert means(fake) == "sha-mid-a"


def test_a_copy_that_fails_is_tried_again(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    publish(host, NAME)
    fake.fail["copy active:latest"] = [Unreachable("The connection broke.")]
    with pytest.raises(Unreachable):
        settle(host, fake)
    settle(host, fake, mend=True)
    assert means(fake) == "sha-mid-a"


def test_another_address_has_no_name_of_ours(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    config.put_host({"base_url": "http://127.0.0.1:8"}, ANNA, published.pk)
    assert Host.objects.get().published_as == ""
