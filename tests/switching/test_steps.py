"""A switch, step by step, on a host in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from switcher.domain.states import ENDED, State
from switcher.models import AuditEntry, Host, ModelProfile, SwitchEvent
from switcher.ollama.errors import NotDone, Refused, Unreachable
from switcher.records import switches
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., ModelProfile]
Go = Callable[..., SwitchEvent]


def acts(fake: FakeHost) -> list[str]:
    """What was done to models: readings and copies are none of it."""
    return [a for a in fake.journal if a.split()[0] not in ("ps", "tags", "copy", "delete")]


def phases(row: SwitchEvent) -> list[str]:
    return [p["phase"] for p in row.phases]


def test_the_first_switch_loads_beside_nothing_and_activates(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    row = switch(profile("mid-a"))
    assert (row.state, row.strategy) == ("active", "overlap")
    assert acts(fake) == ["load mid-a", "warm mid-a"]
    host.refresh_from_db()
    assert (host.active_tag, host.active_digest) == ("mid-a", "sha-mid-a")
    assert row.figures["gpu_percent"] == 100
    assert row.ended_at is not None


def test_overlap_unloads_the_old_model_only_after_the_new_one_is_active(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    row = switch(profile("mid-b"))
    assert row.strategy == "overlap"
    assert "16.0 GB are free" in row.strategy_reason
    assert acts(fake)[2:] == ["load mid-b", "warm mid-b", "unload mid-a"]
    assert phases(row) == [
        "checking",
        "loading",
        "warming",
        "verifying",
        "activating",
        "unloading",
    ]
    assert fake.names == {"mid-b"}


def test_swap_makes_way_first_where_both_do_not_fit(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    row = switch(profile("big"))
    assert row.strategy == "swap"
    assert acts(fake)[2:] == ["unload mid-a", "load big", "warm big"]
    assert phases(row)[1:4] == ["draining", "unloading", "loading"]
    assert fake.names == {"big"}


def test_in_swap_the_load_is_asked_for_right_after_the_unload(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    switch(profile("big"))
    at = fake.journal.index("unload mid-a")
    assert fake.journal[at + 1] == "load big"


def test_a_load_that_fails_in_overlap_leaves_the_old_model_untouched(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.fail["load mid-b"] = [Refused("Ollama answered 500: out of memory", 500, "out of memory")]
    row = switch(profile("mid-b"))
    assert (row.state, row.error_code) == ("rolled_back", "refused")
    assert row.error == "Ollama answered 500: out of memory"
    assert "mid-a stays active" in row.outcome
    assert fake.names == {"mid-a"}
    host.refresh_from_db()
    assert host.active_tag == "mid-a"


def test_a_load_that_fails_in_swap_brings_the_old_model_back_and_verifies_it(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.fail["load big"] = [Refused("Ollama answered 500: cudaMalloc failed", 500, "cudaMalloc")]
    row = switch(profile("big"))
    assert row.state == "rolled_back"
    assert row.restored == "mid-a"
    assert row.outcome == "big did not become active. mid-a is active again."
    assert acts(fake)[-2:] == ["load mid-a", "warm mid-a"]
    done = [a for a in fake.journal if not a.startswith("delete")]
    assert done[-2:] == ["ps", "ps"], "the last thing is a look: what is said was verified"
    host.refresh_from_db()
    assert host.active_tag == "mid-a"
    assert not row.degraded


def test_an_old_model_that_is_listed_while_it_leaves_is_loaded_again_all_the_same(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    """Facts 1 and 2: right after a load that failed at once, the old one is still listed."""
    switch(profile("mid-a"))
    fake.lingers = 4
    fake.fail["load big"] = [Refused("Ollama answered 500: no", 500, "no")]
    row = switch(profile("big"))
    assert (row.state, row.restored) == ("rolled_back", "mid-a")
    for _ in range(6):
        fake.resident()
    assert fake.names == {"mid-a"}


def test_a_restore_that_fails_too_is_loudly_degraded(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.fail["load big"] = [Refused("Ollama answered 500: no", 500, "no")]
    fake.fail["load mid-a"] = [Refused("Ollama answered 500: no either", 500, "no either")]
    row = switch(profile("big"))
    assert (row.state, row.degraded) == ("failed", True)
    assert "north-1 holds no model" in row.outcome
    host.refresh_from_db()
    assert host.degraded == row.outcome


@pytest.mark.parametrize("act", ["load mid-b", "warm mid-b"])
def test_an_answer_that_ends_early_is_no_success(
    fake: FakeHost, profile: Make, switch: Go, act: str
) -> None:
    """Fact 10."""
    switch(profile("mid-a"))
    fake.fail[act] = [NotDone("Ollama's answer for mid-b ended early (done: false).")]
    row = switch(profile("mid-b"))
    assert (row.state, row.error_code) == ("rolled_back", "not-done")
    assert fake.names == {"mid-a"}


def test_a_model_that_came_up_on_the_cpu_is_a_failed_switch(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    fake.gpu_percent = 40
    row = switch(profile("mid-b", min_gpu_percent=90))
    assert (row.state, row.error_code) == ("rolled_back", "below-floor")
    assert row.error == "40 % of mid-b is on the GPU; the profile wants 90 %."
    host.refresh_from_db()
    assert host.active_tag == "mid-a"


def test_a_floor_that_only_warns_lets_the_switch_through(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    fake.gpu_percent, fake.tokens_per_s = 40, 3.0
    row = switch(profile("mid-b", min_gpu_percent=90, min_tokens_per_s=10, floor_fails=False))
    assert row.state == "active"
    assert len(row.warnings) == 2


def test_a_slow_warm_up_fails_the_switch(fake: FakeHost, profile: Make, switch: Go) -> None:
    fake.tokens_per_s = 3.0
    row = switch(profile("mid-b", min_tokens_per_s=10))
    assert row.error == "The warm-up ran at 3.0 tokens/s; the profile wants 10."


def test_less_gpu_than_last_time_is_a_warning(fake: FakeHost, profile: Make, switch: Go) -> None:
    a, b = profile("mid-a"), profile("mid-b")
    switch(b)
    switch(a)
    fake.gpu_percent = 60
    row = switch(b)
    assert row.state == "active"
    assert row.warnings == ["60 % of mid-b is on the GPU; last time it was 100 %."]


def test_a_name_that_is_repulled_in_the_middle_is_not_activated(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    """Fact 23."""
    switch(profile("mid-a"))

    def repull(act: str) -> None:
        if act == "load mid-b":
            fake.repoint("mid-b", "sha-other")

    fake.before_act = repull
    row = switch(profile("mid-b"))
    assert row.state in ("rolled_back", "failed")
    assert row.error_code == "not-resident"
    host.refresh_from_db()
    assert host.active_tag == "mid-a"


def test_switching_to_what_is_active_verifies_it_and_says_so(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    a = profile("mid-a")
    switch(a)
    row = switch(a)
    assert row.state == "active"
    assert row.outcome == "mid-a was active on north-1 already, and answers."
    assert acts(fake)[2:] == ["warm mid-a"]


def test_an_embedding_model_is_switched_to_like_any_other(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    row = switch(profile("embed", min_tokens_per_s=10))
    assert row.state == "active"


def test_an_older_server_is_asked_what_a_model_can_do(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    """Fact 16: before 0.30 `/api/tags` names no capabilities, `/api/show` does."""
    name = "embed:latest"
    fake.told[name] = fake.models[name].capabilities
    fake.models[name] = replace(fake.models[name], capabilities=())
    assert switch(profile("embed", min_tokens_per_s=10)).state == "active"
    assert "show embed" in acts(fake)


def test_a_model_that_is_not_on_the_host_touches_nothing(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    row = switch(profile("nowhere"))
    assert (row.state, row.error_code) == ("failed", "plan-blocked")
    assert "ollama pull nowhere" in row.error
    assert acts(fake) == []


def test_a_host_that_does_not_answer_touches_nothing(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    fake.fail["ps"] = [Unreachable("Connection refused at http://127.0.0.1:9.")]
    row = switch(profile("mid-a"))
    assert (row.state, row.error_code) == ("failed", "unreachable")
    assert row.outcome.startswith("Nothing was touched on north-1. Check that Ollama runs there")


def test_an_old_plan_runs_nothing(fake: FakeHost, profile: Make, switch: Go) -> None:
    row = switch(profile("mid-a"), token="p-000000000000")
    assert (row.state, row.error_code) == ("failed", "plan-outdated")
    assert acts(fake) == []


def test_an_old_model_that_stays_is_a_warning_after_the_activation(
    fake: FakeHost, host: Host, profile: Make, switch: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switcher.switching.residency.UNLOAD_TIMEOUT_S", 0.1)
    switch(profile("mid-a"))
    fake.sticky.add("mid-a:latest")
    row = switch(profile("mid-b"))
    assert row.state == "active"
    assert "mid-a is still in memory (8.0 GB)" in row.warnings[0]


def lose_in(fake: FakeHost, digest: str, after: str, nth: int = 1) -> None:
    """Have it evicted at the nth reading after an act."""
    seen: list[str] = []

    def evict(act: str) -> None:
        if act == "ps" and after in fake.journal:
            seen.append(act)
            if len(seen) == nth:
                fake.loaded.pop(digest, None)

    fake.before_act = evict


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_in_swap_what_is_lost_before_the_activation_is_never_activated(
    fake: FakeHost, host: Host, profile: Make, switch: Go, nth: int
) -> None:
    """The last of these is the reading that the record keeps of the end."""
    switch(profile("mid-a"))
    lose_in(fake, "sha-big", "warm big", nth)
    row = switch(profile("big"))
    assert (row.state, row.restored) == ("rolled_back", "mid-a")
    assert "does not list big" in row.error
    host.refresh_from_db()
    assert host.active_tag == "mid-a"
    assert fake.names == {"mid-a"}


def test_a_model_that_is_lost_while_the_old_one_leaves_is_loaded_again(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    """Fact 14: a client's load may cost it."""
    switch(profile("mid-a"))
    lose_in(fake, "sha-mid-b", "unload mid-a")
    row = switch(profile("mid-b"))
    assert (row.state, row.degraded) == ("active", False)
    assert row.warnings == ["mid-b left the memory after it was activated; it was loaded again."]
    assert fake.names == {"mid-b"}


def test_a_model_that_is_lost_after_its_activation_and_does_not_come_back_is_said_loudly(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))
    lose_in(fake, "sha-mid-b", "unload mid-a")
    b = profile("mid-b")
    fake.after_act = lambda act: (
        fake.fail.update({"load mid-b": [Refused("Ollama answered 500: no room", 500, "no room")]})
        if act == "warm mid-b"
        else None
    )
    row = switch(b)
    host.refresh_from_db()
    assert (row.state, row.degraded, row.after) == ("active", True, [])
    assert host.active_tag == "mid-b"
    assert (
        host.degraded
        == row.outcome
        == (
            "mid-b was activated, left the memory again, and could not be loaded anew: "
            "Ollama answered 500: no room. north-1 holds no model."
        )
    )
    switch(b)
    host.refresh_from_db()
    assert host.degraded == "", "it was seen there again"


def test_what_was_lost_comes_back_by_its_copy_if_its_name_means_other_content(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    """Fact 23: its own name would load other content than was verified."""
    switch(profile("mid-a"))
    lose_in(fake, "sha-mid-b", "unload mid-a")
    fake.after_act = lambda act: fake.repoint("mid-b", "other") if act == "unload mid-a" else None
    row = switch(profile("mid-b"))
    assert (row.state, row.degraded) == ("active", False)
    assert set(fake.loaded) == {"sha-mid-b"}


def test_a_name_that_means_other_content_is_not_loaded_in_the_place_of_what_was_lost(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    """Fact 23: what was verified is another model, and its copy is gone too."""
    switch(profile("mid-a"))
    lose_in(fake, "sha-mid-b", "unload mid-a")

    def take_away(act: str) -> None:
        if act == "unload mid-a":
            fake.repoint("mid-b", "other")
            for name in fake.model_copies:
                fake.delete(name)

    fake.after_act = take_away
    row = switch(profile("mid-b"))
    assert (row.state, row.degraded) == ("active", True)
    assert "the name mid-b does not mean it any more" in row.outcome
    assert acts(fake)[2:] == ["load mid-b", "warm mid-b", "unload mid-a"]


def test_a_host_that_is_silent_after_the_activation_is_not_said_to_hold_anything(
    fake: FakeHost, host: Host, profile: Make, switch: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switcher.switching.residency.RETRY_FOR_S", 0.0)
    switch(profile("mid-a"))

    def go_away(act: str) -> None:
        if act == "ps" and "unload mid-a" in fake.journal:
            raise Unreachable("Connection refused at http://127.0.0.1:9.")

    fake.before_act = go_away
    row = switch(profile("mid-b"))
    assert (row.state, row.degraded, row.after) == ("active", False, None)
    assert "north-1 was not seen after the activation" in row.warnings[-1]


def test_pinned_models_that_the_server_evicts_come_back(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    embed = profile("embed")
    host.pinned.add(embed)
    fake.hold("embed")
    fake.before_act = lambda act: (
        fake.loaded.pop("sha-embed", None) if act == "load mid-a" else None
    )
    row = switch(profile("mid-a"))
    assert row.state == "active"
    assert row.warnings == ["The server evicted embed; it was loaded again."]
    assert "embed" in fake.names


def test_foreign_models_stay_while_they_fit_and_leave_where_they_do_not(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    fake.hold("mid-b")
    switch(profile("mid-a"))
    assert fake.names == {"mid-a", "mid-b"}
    switch(profile("big"))
    assert fake.names == {"big"}


def test_other_options_of_the_same_model_are_a_switch_and_its_failure_restores_them(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    """Fact 12."""
    a = profile("mid-a", options={"num_ctx": 4096})
    switch(a)
    a.name, a.pk, a.options, a.min_gpu_percent = "mid-a-long", None, {"num_ctx": 8192}, 90
    a._state.adding = True
    a.save()
    fake.gpu_percent = 50
    row = switch(a)
    assert row.state == "rolled_back"
    assert fake.loaded["sha-mid-a"].context_length == 4096


def test_a_cancel_in_the_middle_restores_the_old_model(
    fake: FakeHost, host: Host, profile: Make, switch: Go
) -> None:
    switch(profile("mid-a"))

    def cancel(act: str) -> None:
        if act == "load big":
            row = SwitchEvent.objects.latest("id")
            switches.request_cancel(row.pk, ANNA)

    fake.before_act = cancel
    row = switch(profile("big"))
    assert (row.state, row.restored) == ("cancelled", "mid-a")
    assert row.outcome == "big was cancelled. mid-a is active again."
    assert fake.names == {"mid-a"}


def test_every_transition_has_its_entry_in_order(fake: FakeHost, profile: Make, switch: Go) -> None:
    switch(profile("mid-a"))
    row = switch(profile("big"))
    entries = AuditEntry.objects.filter(switch=row).order_by("seq")
    kinds = entries.exclude(kind__startswith="handle.").values_list("kind", flat=True)
    assert list(kinds) == [
        "switch.queued",
        "switch.checking",
        "switch.draining",
        "switch.unloading",
        "switch.loading",
        "switch.warming",
        "switch.verifying",
        "switch.activating",
        "host.activated",
        "switch.active",
    ]


def test_each_phase_has_its_start_and_its_seconds(
    fake: FakeHost, profile: Make, switch: Go
) -> None:
    row = switch(profile("mid-a"))
    assert all(p["at"] and p["seconds"] is not None for p in row.phases)


def test_all_ends_are_ends(fake: FakeHost, profile: Make, switch: Go) -> None:
    row = switch(profile("mid-a"))
    assert State(row.state) in ENDED
