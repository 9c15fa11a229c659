"""Copies of what a switch loaded: held while it is resident, a way to a ghost, never in the way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from switcher.domain.errors import BadRequest, Conflict, NotFound
from switcher.domain.observed import Observation
from switcher.models import AuditEntry, Host, Lease, ModelCopy, ModelProfile, Pin, SwitchEvent
from switcher.ollama.errors import Refused, TimedOut, Unreachable
from switcher.records import leases, readings
from switcher.switching import ghosts, residency
from switcher.switching.copy_cleanup import clean_up_copies
from switcher.switching.ghosts import FreedGhost
from switcher.switching.worker import run_once
from tests.clocks import FakeClock
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost
from tests.switching.test_worker import SCENARIOS, Killed, Killer, Scenario, acts, ask, begin

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., ModelProfile]
Go = Callable[..., SwitchEvent]

A, B, BIG = (f"switchboard-holds/{tag}:sha-{tag}" for tag in ("mid-a", "mid-b", "big"))


@pytest.fixture(autouse=True)
def _digests_are_short_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ghosts, "SHORT_DIGEST", 3)


def ours() -> set[str]:
    return set(ModelCopy.objects.values_list("name", flat=True))


def read(host: Host, fake: FakeHost) -> None:
    """What the watcher does."""
    now = datetime.now(UTC)
    loaded, disk = tuple(fake.loaded.values()), tuple(fake.models.values())
    readings.store(host.pk, Observation(now, resident=loaded, installed=disk), 0)


def tidy(host: Host, fake: FakeHost) -> None:
    read(host, fake)
    clean_up_copies(host.pk, connect=lambda _: fake)


def free(host: Host, fake: FakeHost, digest: str) -> FreedGhost:
    return ghosts.free(host, digest, ANNA, connect=lambda _: fake)


# --- in a switch -----------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "name"), [("mid-b", B), ("big", BIG)])
def test_a_copy_is_held_of_what_is_loaded_and_goes_with_what_left(
    fake: FakeHost, host: Host, profile: Make, switch: Go, tag: str, name: str
) -> None:
    switch(profile("mid-a"))
    assert fake.model_copies == ours() == {A}
    assert fake.models[A].digest == "sha-mid-a"
    row = switch(profile(tag))
    assert (row.state, row.warnings) == ("active", [])
    assert fake.model_copies == ours() == {name}


def test_the_name_is_ours_by_the_record_before_it_is_made(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    seen = []
    fake.before_act = lambda act: seen.append((act, ours())) if "copy" in act else None
    switch(profile("mid-a"))
    assert seen == [(f"copy {A}", {A})]
    kinds = AuditEntry.objects.filter(kind__startswith="handle.").values_list("kind", flat=True)
    assert list(kinds) == ["handle.claimed"]


def test_in_a_swap_it_is_made_before_the_old_model_leaves(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    switch(profile("big"))
    made, left = fake.journal.index(f"copy {BIG}"), fake.journal.index("unload mid-a")
    assert made < left
    assert fake.journal[left + 1] == "load big"


@pytest.mark.parametrize("tag", ["mid-b", "big"])
@pytest.mark.parametrize(
    "exc", [Refused("Ollama answered 500: no", 500, "no"), TimedOut("No answer within 5 s.")]
)
def test_a_copy_that_fails_is_a_warning(
    fake: FakeHost, host: Host, profile: Make, switch: Go, tag: str, exc: Exception
) -> None:
    switch(profile("mid-a"))
    fake.fail[f"copy switchboard-holds/{tag}:sha-{tag}"] = [exc]  # type: ignore[list-item]
    row = switch(profile(tag))
    assert row.state == "active"
    assert row.warnings == [f"No copy of {tag} is kept: {exc}"]
    tidy(host, fake)
    assert len(fake.model_copies) == len(ours()) == 1


def test_a_copy_that_cannot_be_removed_is_no_matter_of_the_switch_and_goes_later(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.fail[f"delete {A}"] = [Unreachable("The connection broke.")]
    row = switch(profile("mid-b"))
    assert (row.state, row.warnings) == ("active", [])
    assert fake.model_copies == ours() == {A, B}
    tidy(host, fake)
    assert fake.model_copies == ours() == {B}


def test_a_name_that_is_not_ours_is_not_touched(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    fake.copy("mid-b", A)
    fake.journal.clear()
    row = switch(profile("mid-a"))
    assert row.state == "active"
    assert row.warnings == [f"No copy of mid-a is kept: {A} is not Switchboard's."]
    tidy(host, fake)
    switch(profile("mid-b"))
    tidy(host, fake)
    assert fake.models[A].digest == "sha-mid-b"
    assert not [a for a in fake.journal if a.endswith(A)]


@pytest.mark.parametrize("tag", ["mid-b", "big"])
@pytest.mark.parametrize("act", ["load", "warm"])
def test_a_failed_load_leaves_no_copy(
    fake: FakeHost, profile: Make, switch: Go, tag: str, act: str
) -> None:
    switch(profile("mid-a"))
    fake.fail[f"{act} {tag}"] = [Refused("Ollama answered 500: no", 500, "no")]
    assert switch(profile(tag)).state == "rolled_back"
    assert fake.model_copies == ours() == {A}


def test_what_others_had_loaded_is_not_held_after_a_failed_switch_to_it(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.hold("mid-b")
    fake.tokens_per_s = 1.0
    assert switch(profile("mid-b", min_tokens_per_s=10)).state == "rolled_back"
    assert fake.names == {"mid-a", "mid-b"}
    assert fake.model_copies == ours() == {A}


def test_a_missing_copy_is_made_where_the_model_is_active_already(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    a = profile("mid-a")
    switch(a)
    fake.delete(A)
    ModelCopy.objects.all().delete()
    row = switch(a)
    assert row.figures["already_active"]
    assert fake.model_copies == ours() == {A}


def test_a_tag_that_is_pulled_again_while_it_is_copied_leaves_no_copy(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    fake.before_act = lambda act: fake.repoint("mid-b", "sha-other") if act == f"copy {B}" else None
    row = switch(profile("mid-b"))
    assert (row.state, row.error_code) == ("rolled_back", "not-resident")
    assert fake.model_copies == ours() == set()


def test_a_pinned_model_that_a_switch_loads_is_held_too(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    host.pinned.add(profile("embed"))
    switch(profile("mid-a"))
    assert fake.model_copies == ours() == {A, "switchboard-holds/embed:sha-embed"}


def test_what_a_pinned_model_was_is_known_longer_than_its_copy_lives(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    a = profile("mid-a")
    host.pinned.add(profile("embed"))
    switch(a)
    fake.loaded.pop("sha-embed")
    tidy(host, fake)
    assert ours() == {A}
    assert Pin.objects.get().digest == "sha-embed"
    fake.repoint("embed", "sha-other")
    switch(a)
    assert Pin.objects.get().digest == "sha-other"


def test_what_a_pinned_model_is_stays_unknown_while_it_does_not_load(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    host.pinned.add(profile("embed"))
    fake.fail["load embed"] = [Refused("Ollama answered 500: no", 500, "no")]
    assert "embed is pinned, and could not be loaded" in switch(profile("mid-a")).warnings[0]
    assert Pin.objects.get().digest == ""


def test_tidying_notes_what_a_pinned_model_is_that_others_loaded(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    host.pinned.add(profile("embed"))
    fake.hold("embed")
    tidy(host, fake)
    assert Pin.objects.get().digest == "sha-embed"


@pytest.mark.parametrize("tag", ["mid-b", "big"])
@pytest.mark.parametrize("gone", ["pulled again", "deleted"])
def test_an_old_model_that_its_name_does_not_reach_leaves_through_its_copy(
    fake: FakeHost, profile: Make, switch: Go, tag: str, gone: str
) -> None:
    """Facts 23 and 24."""
    switch(profile("mid-a"))
    if gone == "deleted":
        fake.delete("mid-a")
    else:
        fake.repoint("mid-a", "sha-other")
    row = switch(profile(tag))
    assert (row.state, row.warnings) == ("active", [])
    assert fake.names == {tag}
    assert f"unload {A}" in fake.journal
    assert "unload mid-a" not in fake.journal


def test_a_switch_to_the_new_content_of_the_active_name_never_unloads_that(
    fake: FakeHost, profile: Make, switch: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both bear one name: the old one is not to be asked for by it."""
    monkeypatch.setattr(residency, "UNLOAD_INTERVAL_S", 0.0)
    a = profile("mid-a")
    switch(a)
    fake.delete(A)
    fake.repoint("mid-a", "sha-other")
    row = switch(a)
    assert row.state == "active"
    assert set(fake.loaded) == {"sha-mid-a", "sha-other"}
    assert "unload mid-a" not in fake.journal
    assert "mid-a is still in memory (8.0 GB): no name on the host" in row.warnings[-1]


def test_a_new_model_that_is_pulled_again_leaves_through_its_copy_when_it_fails(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.fail["warm mid-b"] = [Refused("Ollama answered 500: no", 500, "no")]
    fake.before_act = lambda act: (
        fake.repoint("mid-b", "sha-other") if act == "warm mid-b" else None
    )
    row = switch(profile("mid-b"))
    assert (row.state, row.warnings) == ("rolled_back", [])
    assert fake.names == {"mid-a"}


def test_a_model_that_was_called_by_its_copy_goes_by_its_own_name_in_the_record(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    """Fact 21: `/api/ps` shows the name by which it was loaded."""
    switch(profile("mid-a"))
    fake.loaded.clear()
    fake.hold(A)
    row = switch(profile("mid-b"))
    assert row.before is not None
    assert row.plan is not None
    assert [r["name"] for r in row.before] == ["mid-a:latest"]
    assert [i["name"] for i in row.plan["unload"]] == ["mid-a:latest"]


@pytest.mark.parametrize("kind", ["before an act", "after an act", "after a commit"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_crash_anywhere_leaves_no_copy_for_ever(db: None, scenario: Scenario, kind: str) -> None:
    clock = FakeClock()
    for n in range(60):
        fake, row = begin(n, scenario, clock)
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(kind, n, patch)
            killer.arm(fake)
            try:
                run_once(row.pk, "doomed", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
            except Killed:
                pass
        fake.before_act = fake.after_act = lambda act: None
        clock.pass_time(leases.LEASE_S)
        run_once(row.pk, "next", clock, connect=lambda _, f=fake: f)  # type: ignore[misc]
        assert fake.model_copies <= ours(), "each name is known to be ours"
        Lease.objects.update(owner="")
        tidy(row.host, fake)
        assert set(fake.model_copies) == ours() == {_held(d) for d in fake.loaded}
        ModelCopy.objects.all().delete()
        if not killer.struck:
            return
    raise AssertionError("it never came through")


def _held(digest: str) -> str:
    return f"switchboard-holds/{digest.removeprefix('sha-')}:{digest}"


# --- between switches ------------------------------------------------------------------------


def test_where_all_is_well_tidying_asks_the_host_nothing(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.journal.clear()
    tidy(host, fake)
    assert fake.journal == []


def test_tidying_only_ever_touches_copies(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    host.pinned.add(profile("embed"))
    switch(profile("mid-a"))
    for name in list(fake.model_copies):
        fake.delete(name)
    ModelCopy.objects.filter(tag="embed:latest").delete()
    fake.journal.clear()
    tidy(host, fake)
    assert acts(fake) == []
    assert len(fake.model_copies) == len(ours()) == 2


def test_a_copy_of_what_left_is_tidied_up_and_a_fresh_look_decides(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    Host.objects.update(active_tag="", active_digest="")
    here = fake.loaded.pop("sha-mid-a")
    read(host, fake)
    fake.loaded["sha-mid-a"] = here  # it is back since the reading
    clean_up_copies(host.pk, connect=lambda _: fake)
    assert fake.model_copies == ours() == {A}
    fake.loaded.clear()
    tidy(host, fake)
    assert fake.model_copies == ours() == set()
    kinds = AuditEntry.objects.filter(kind="handle.released").values_list("actor", flat=True)
    assert list(kinds) == ["switchboard"]


def test_nothing_is_tidied_up_while_a_switch_is_open(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    a = profile("mid-a")
    switch(a)
    fake.journal.clear()
    ask(host, a)
    left_over = {"tag": "x", "name": "x", "made_at": datetime.now(UTC)}
    ModelCopy.objects.create(host=host, digest="x", **left_over)
    with pytest.raises(Conflict, match="A switch runs on this host"):
        tidy(host, fake)
    assert fake.journal == []


def test_what_has_become_a_ghost_already_cannot_be_held_any_more(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.delete(A)
    ModelCopy.objects.all().delete()
    fake.repoint("mid-a", "sha-other")
    fake.journal.clear()
    tidy(host, fake)
    assert fake.journal == []


def test_a_copy_that_comes_out_wrong_is_taken_back(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.delete(A)
    fake.before_act = lambda act: fake.repoint("mid-a", "sha-other") if act == f"copy {A}" else None
    tidy(host, fake)
    assert fake.model_copies == ours() == set()


# --- freeing a ghost -------------------------------------------------------------------------


def make_ghost(fake: FakeHost, profile: Make, switch: Go) -> None:
    """mid-b is active; of mid-a, which a switch had loaded, an older content stayed in memory."""
    fake.sticky.add("mid-a:latest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residency, "UNLOAD_TIMEOUT_S", 0.0)
        switch(profile("mid-a"))
        switch(profile("mid-b"))
    fake.sticky.clear()
    fake.repoint("mid-a", "sha-other")
    assert fake.model_copies == ours() == {A, B}


def test_a_ghost_is_freed_through_its_copy(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    make_ghost(fake, profile, switch)
    fake.lingers = 2
    freed = free(host, fake, "sha-mid-a")
    assert freed.text == "mid-a (sha-mid-a) left north-1: 8.0 GB are free again."
    assert fake.names == {"mid-b"}
    assert fake.model_copies == ours() == {B}
    kinds = AuditEntry.objects.filter(actor="anna", kind__startswith="ghost.").order_by("seq")
    assert [k.kind for k in kinds] == ["ghost.unload-asked", "ghost.freed"]
    assert Lease.objects.get(host=host).owner == ""


def test_a_ghost_that_nothing_reaches_is_told_with_what_remains(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    make_ghost(fake, profile, switch)
    fake.delete(A)
    fake.journal.clear()
    with pytest.raises(
        Conflict, match=r"No name on north-1 reaches mid-a any more: it is unloaded at"
    ):
        free(host, fake, "sha-mid-a")
    assert acts(fake) == []


def test_an_overdue_model_is_a_ghost_that_its_own_name_reaches(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    here = fake.hold("big")
    late = datetime.now(UTC) - timedelta(minutes=5)
    fake.loaded["sha-big"] = type(here)(here.name, here.digest, 1, 1, 1, late)
    assert free(host, fake, "sha-big").model == "big"
    assert acts(fake) == ["unload big"]


def test_a_ghost_that_is_busy_is_said_to_be(
    fake: FakeHost, host: Host, profile: Make, switch: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ghosts, "UNLOAD_TIMEOUT_S", 0.1)
    make_ghost(fake, profile, switch)
    fake.sticky.add(A)
    with pytest.raises(
        Conflict, match="mid-a is busy: it is unloaded when its requests have ended"
    ):
        free(host, fake, "sha-mid-a")
    assert fake.model_copies == ours() == {A, B}, "the way to it stays"


def test_what_is_no_ghost_is_not_freed(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.hold("mid-b")
    host.pinned.add(profile("embed"))
    fake.hold("embed")
    fake.journal.clear()
    host.refresh_from_db()
    for digest, said in (
        ("sha-mid-a", "mid-a is active on north-1"),
        ("sha-mid-b", "mid-b is no ghost"),
        ("sha-embed", "embed is pinned on north-1"),
    ):
        with pytest.raises(Conflict, match=said):
            free(host, fake, digest)
    with pytest.raises(NotFound, match="No model with the digest sha-nowhere"):
        free(host, fake, "sha-nowhere")
    with pytest.raises(NotFound):
        free(host, fake, "sha-mid")  # two
    with pytest.raises(BadRequest, match="digits of its digest"):
        free(host, fake, "s")
    assert acts(fake) == []


def test_a_ghost_is_not_freed_while_a_switch_runs(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    make_ghost(fake, profile, switch)
    ask(host, profile("big"))
    fake.journal.clear()
    with pytest.raises(Conflict, match="A switch runs on this host"):
        free(host, fake, "sha-mid-a")
    assert fake.journal == []


def test_a_host_that_is_just_given_back_is_waited_for_and_one_that_is_not_is_a_conflict(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    make_ghost(fake, profile, switch)
    clock = FakeClock()
    fence = leases.take(host.pk, "a switch that has just ended", clock)
    assert fence is not None
    with pytest.raises(Conflict, match="Something else is at work"):
        ghosts.free(host, "sha-mid-a", ANNA, clock, connect=lambda _: fake)
    assert clock.monotonic() >= 1000.0 + ghosts.WAIT_S
    sleep = clock.sleep

    def give_back(seconds: float) -> None:
        sleep(seconds)
        leases.give_back(host.pk, fence)

    clock.sleep = give_back  # type: ignore[method-assign]
    assert ghosts.free(host, "sha-mid-a", ANNA, clock, connect=lambda _: fake).model == "mid-a"


def test_a_copy_that_stays_behind_does_not_make_the_freeing_fail(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    make_ghost(fake, profile, switch)
    fake.fail[f"delete {A}"] = [Unreachable("The connection broke.")]
    assert free(host, fake, "sha-mid-a").model == "mid-a"
    assert fake.model_copies == ours() == {A, B}
    tidy(host, fake)
    assert fake.model_copies == ours() == {B}
