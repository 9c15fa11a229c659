"""The published name: it means the active model, whatever happens, and is never somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Observation
from switcher.models import AuditEntry, Host, ModelProfile, SwitchEvent
from switcher.ollama.errors import Refused, Unreachable
from switcher.queries.hosts import published_name
from switcher.records import config, leases, readings
from switcher.records import published_name as records
from switcher.switching.errors import NotPublished
from switcher.switching.published_name import apply_published_name
from switcher.switching.service import SwitchRequest, resolve
from switcher.switching.worker import run_once
from tests.clocks import FakeClock
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost
from tests.switching.test_worker import SCENARIOS, Killed, Killer, Scenario, begin

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., ModelProfile]
Go = Callable[..., SwitchEvent]
NAME, OTHER = "active:latest", "chosen:latest"
MID_A = "mid-a:latest"
TAKEN = (
    "north-1 has a model active that is not Switchboard's. "
    "Choose another published name, or remove that model."
)


@pytest.fixture
def published(host: Host) -> Host:
    publish(host, NAME)
    return host


def publish(host: Host, name: str) -> None:
    config.put_host({"published_name": name}, ANNA, host.pk)


def means(fake: FakeHost, name: str = NAME) -> str:
    row = fake.models.get(name)
    return row.digest if row else ""


def settle(host: Host, fake: FakeHost, mend: bool = False, clock: Clock = system) -> None:
    now = datetime.now(UTC)
    loaded, disk = tuple(fake.loaded.values()), tuple(fake.models.values())
    readings.store(host.pk, Observation(now, resident=loaded, installed=disk), 0)
    apply_published_name(host.pk, ANNA, clock, connect=lambda _: fake, mend=mend)


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
    assert row.state == "failed"
    assert "has a model active that is not Switchboard's" in row.error
    assert means(fake) == "sha-active"


@pytest.mark.parametrize("tag", ["mid-b", "big"])
def test_a_name_that_is_taken_ends_a_switch_before_anything_was_touched(
    fake: FakeHost, host: Host, profile: Make, switch: Go, tag: str
) -> None:
    switch(profile("mid-a"))
    fake.add("active")
    publish(host, NAME)
    fake.journal.clear()
    row = switch(profile(tag))
    assert (row.state, row.error_code, row.degraded) == ("failed", "plan-blocked", False)
    assert row.error == TAKEN
    assert row.outcome == "Nothing was touched on north-1."
    assert set(fake.journal) == {"ps", "tags"}
    assert Host.objects.get().active_tag == "mid-a"


def test_a_name_that_is_taken_while_the_switch_runs_takes_it_back(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.after_act = lambda act: _move_in(fake) if act == "warm big" else None
    row = switch(profile("big"))
    assert (row.state, row.error_code, row.error) == ("rolled_back", "not-published", TAKEN)
    assert means(fake) == "sha-strange"
    assert fake.names == {"mid-a"}


def test_what_somebody_put_under_our_name_is_not_written_over_where_it_has_no_other_name(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    """`ollama create active` writes over our copy: then that is the only name of what it made."""
    switch(profile("mid-a"))
    _move_in(fake)
    assert (switch(profile("mid-b")).error, means(fake)) == (TAKEN, "sha-strange")
    with pytest.raises(NotPublished, match="not Switchboard's"):
        settle(published, fake, mend=True)
    publish(published, "")
    settle(published, fake)
    assert means(fake) == "sha-strange"
    assert Host.objects.get().published_as == ""


def test_what_somebody_copied_to_our_name_is_written_over_as_nothing_is_lost(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.copy("big", NAME)
    assert switch(profile("mid-b")).state == "active"
    assert means(fake) == "sha-mid-b"


def test_a_copy_that_is_held_is_no_other_name_of_what_lies_there(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    """It goes when the model leaves the memory, and then the content would be gone."""
    switch(profile("mid-a"))
    _move_in(fake)
    fake.copy(NAME, "switchboard-holds/strange:1")
    assert switch(profile("mid-b")).error == TAKEN


def test_what_is_active_is_loaded_anew_also_where_the_name_is_taken(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    """For who follows the name nothing changes; so a stranger there keeps no model away."""
    row = profile("mid-a")
    switch(row)
    _move_in(fake)
    fake.loaded.clear()
    again = switch(row)
    assert (again.state, fake.names) == ("active", {"mid-a"})
    assert again.warnings == [f"The published name was not pointed: {TAKEN}"]
    assert means(fake) == "sha-strange"


def test_a_switch_that_is_taken_back_deletes_no_model_of_somebody_else(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    fake.after_act = lambda act: _move_in(fake) if act == f"copy {NAME}" else None
    row = switch(profile("mid-a"))
    assert (row.state, means(fake)) == ("rolled_back", "sha-strange")
    assert Host.objects.get().published_as == ""


def _move_in(fake: FakeHost) -> None:
    """What `ollama create active` does."""
    fake.models[NAME] = replace(
        fake.models[MID_A], name=ModelName.parse(NAME), digest="sha-strange"
    )


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


# --- another name ----------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["mid-b", "big"])
def test_a_name_that_was_changed_before_a_switch_is_changed_by_it(
    fake: FakeHost, published: Host, profile: Make, switch: Go, tag: str
) -> None:
    """The host was busy or away when it was changed."""
    switch(profile("mid-a"))
    publish(published, OTHER)
    row = switch(profile(tag))
    assert (row.state, row.warnings) == ("active", [])
    assert (means(fake), means(fake, OTHER)) == ("", f"sha-{tag}")
    told = AuditEntry.objects.filter(switch=row, kind__startswith="name.").order_by("seq")
    assert [(e.kind, e.facts["name"]) for e in told] == [
        ("name.withdrawn", NAME),
        ("name.pointed", OTHER),
    ]


def test_a_name_that_is_changed_in_a_switch_is_changed_by_it(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.after_act = lambda act: publish(published, OTHER) if act == "warm mid-b" else None
    assert switch(profile("mid-b")).state == "active"
    assert (means(fake), means(fake, OTHER)) == ("", "sha-mid-b")


def test_a_switch_that_is_taken_back_has_changed_the_name_all_the_same(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    publish(published, OTHER)
    fake.fail[f"copy {OTHER}"] = [Refused("Ollama answered 500: disk full", 500, "disk full")]
    row = switch(profile("mid-b"))
    assert (row.state, row.warnings) == ("rolled_back", [])
    assert (means(fake), means(fake, OTHER)) == ("", "sha-mid-a")


def test_a_name_that_was_changed_can_be_chosen_again(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    publish(published, OTHER)
    switch(profile("mid-b"))
    publish(published, NAME)
    settle(published, fake)
    assert (means(fake), means(fake, OTHER)) == ("sha-mid-b", "")


def test_the_old_name_is_left_to_who_has_made_it_his_own(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    _move_in(fake)
    publish(published, OTHER)
    assert switch(profile("mid-b")).state == "active"
    assert (means(fake), means(fake, OTHER)) == ("sha-strange", "sha-mid-b")


def test_a_name_that_is_about_to_go_is_nothing_to_switch_to(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    publish(published, OTHER)
    for name in (NAME, OTHER):
        with pytest.raises(BadRequest, match="publishes its active model"):
            resolve(SwitchRequest(name))


RECORDING = ("claim", "confirm", "release")


@pytest.mark.parametrize("kind", ["before an act", "after an act", "after a commit"])
@pytest.mark.parametrize("scenario", SCENARIOS[:3], ids=str)
def test_a_switch_that_dies_anywhere_while_it_changes_the_name_leaves_no_other(
    db: None, scenario: Scenario, kind: str
) -> None:
    clock = FakeClock()
    for n in range(80):
        fake, row = begin(n, scenario, clock, published=NAME)
        host = Host.objects.get(pk=row.host_id)
        publish(host, OTHER)
        with pytest.MonkeyPatch.context() as patch:
            killer = _killer(kind, n, patch, fake)
            try:
                run_once(row.pk, "doomed", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
            except Killed:
                pass
        fake.before_act = fake.after_act = lambda act: None
        if not killer.struck:
            return
        clock.pass_time(leases.LEASE_S)
        run_once(row.pk, "next", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
        clock.pass_time(leases.LEASE_S)
        settle(host, fake, clock=clock)
        _check_agreed(host, fake)
    raise AssertionError("it never came through")


@pytest.mark.parametrize("change", ["made", "changed", "taken away", "moved"])
@pytest.mark.parametrize("kind", ["before an act", "after an act", "after a commit"])
def test_whoever_dies_while_he_carries_it_out_leaves_it_to_the_next(
    db: None, change: str, kind: str
) -> None:
    clock = FakeClock()
    for n in range(20):
        fake, row = begin(n, SCENARIOS[0], clock, published="" if change == "made" else NAME)
        run_once(row.pk, "first", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
        host = Host.objects.get(pk=row.host_id)
        if change == "moved":  # a switch that was taken back could not reach the host any more
            fake.copy(MID_A, NAME)
            was = {"published_tag": MID_A, "published_digest": "sha-mid-a"}
            Host.objects.filter(pk=host.pk).update(**was)
        else:
            publish(host, {"made": NAME, "changed": OTHER, "taken away": ""}[change])
        with pytest.MonkeyPatch.context() as patch:
            killer = _killer(kind, n, patch, fake)
            try:
                settle(host, fake, clock=clock)
            except Killed:
                pass
        fake.before_act = fake.after_act = lambda act: None
        clock.pass_time(leases.LEASE_S)
        settle(host, fake, clock=clock)
        _check_agreed(host, fake)
        if not killer.struck:
            return
    raise AssertionError("it never came through")


def _killer(kind: str, n: int, patch: pytest.MonkeyPatch, fake: FakeHost) -> Killer:
    """One that also strikes after what is recorded of the name."""
    killer = Killer(kind, n, patch)
    killer.arm(fake)
    if kind == "after a commit":
        for name in RECORDING:
            patch.setattr(records, name, _then_strike(getattr(records, name), killer))
    return killer


def _then_strike(write: Callable[..., None], killer: Killer) -> Callable[..., None]:
    def wrapped(*args: object) -> None:
        write(*args)
        killer.point()

    return wrapped


def _check_agreed(host: Host, fake: FakeHost) -> None:
    """The name that is set means the active model, the record says so, and there is no other."""
    host.refresh_from_db()
    ours = {n: row.digest for n, row in fake.models.items() if n in (NAME, OTHER)}
    wanted = {host.published_name: host.active_digest} if host.published_name else {}
    recorded = {host.published_as: host.published_digest} if host.published_as else {}
    assert ours == wanted == recorded
    assert not published_name(host.pk).due


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
    settle(host, fake)
    assert means(fake) == "sha-mid-a"
    assert AuditEntry.objects.filter(kind="name.pointed").count() == 1


def test_another_address_has_no_name_of_ours(
    fake: FakeHost, published: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    config.put_host({"base_url": "http://127.0.0.1:8"}, ANNA, published.pk)
    assert Host.objects.get().published_as == ""
