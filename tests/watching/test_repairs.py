"""The policy `repair`: what drifted comes back by an ordinary switch, but not for ever."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from switcher.domain.drift import Kind
from switcher.domain.states import State
from switcher.models import AuditEntry, Drift, ModelCopy, ModelProfile, SwitchEvent
from switcher.queries.desired import watched_hosts
from switcher.watching import repairs
from switcher.watching.loop import Watcher
from tests.until import until
from tests.watching.conftest import Watched

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def kept(watched: Watched, watcher: Watcher, worker: object) -> Watched:
    """A host under repair, with mid-a active."""
    watched.set(drift_policy="repair", repairs_an_hour=2)
    watched.switch("mid-a")
    watched.settled()
    return watched


def evict_and_see_it_repaired(kept: Watched, times: int) -> SwitchEvent:
    kept.ollama.act("evict", tag="mid-a")
    until(lambda: len(kept.repairs()) == times)
    until(lambda: kept.repairs()[-1].ended_at is not None)
    until(lambda: not Drift.objects.filter(ended_at=None).exists())
    return kept.repairs()[-1]


def test_an_evicted_model_comes_back_by_a_switch_of_the_watchers(kept: Watched) -> None:
    row = evict_and_see_it_repaired(kept, 1)
    assert row.state == State.ACTIVE.value
    assert (row.actor, row.source) == ("watcher", "watcher")
    assert row.reason.startswith("Repair: mid-a was evicted")
    assert kept.ollama.resident() == {"mid-a"}
    drift = Drift.objects.get(kind=Kind.EVICTED.value)
    assert drift.repair_id == row.pk


def test_a_reload_with_other_options_is_undone(kept: Watched) -> None:
    kept.ollama.load("mid-a", keep_alive="30m", options={"num_ctx": 8192})
    until(lambda: len(kept.repairs()) == 1)
    until(lambda: kept.ollama.rows().get("mid-a", {}).get("context_length") == 4096)


def test_a_model_that_fell_to_the_cpu_leaves_and_is_loaded_anew(kept: Watched) -> None:
    kept.ollama.fault(kind="cpu", tag="mid-a", share=0.3, times=1)
    kept.ollama.act("evict", tag="mid-a")
    kept.ollama.load("mid-a", keep_alive="30m")
    until(lambda: len(kept.repairs()) >= 1)
    until(lambda: kept.repairs()[-1].ended_at is not None)
    (row,) = [r for r in kept.ollama.rows().values() if r["name"] == "mid-a:latest"]
    assert row["size_vram"] == row["size"]
    until(lambda: not Drift.objects.filter(ended_at=None).exists())


def test_a_restarted_server_gets_its_model_back(kept: Watched) -> None:
    kept.ollama.act("restart")
    until(lambda: len(kept.repairs()) == 1)
    until(lambda: kept.ollama.resident() == {"mid-a"})
    assert Drift.objects.filter(kind=Kind.RESTARTED.value).exists()


def test_what_is_repaired_again_and_again_is_told_once_and_left(kept: Watched) -> None:
    evict_and_see_it_repaired(kept, 1)
    evict_and_see_it_repaired(kept, 2)
    kept.ollama.act("evict", tag="mid-a")
    flap = kept.named(Kind.FLAPPING)
    assert "repaired 2 times since" in flap.text
    assert flap.evidence["repairs_an_hour"] == 2
    assert len(flap.evidence["repairs"]) == 2
    body = AuditEntry.objects.get(kind="drift.flapping").facts
    assert body["text"] == flap.text
    assert len(kept.repairs()) == 2
    assert kept.ollama.resident() == set()
    assert Drift.objects.filter(kind=Kind.EVICTED.value, ended_at=None).exists()


def test_an_admins_switch_ends_a_flap(kept: Watched) -> None:
    kept.set(repairs_an_hour=1)
    evict_and_see_it_repaired(kept, 1)
    kept.ollama.act("evict", tag="mid-a")
    flap = kept.named(Kind.FLAPPING)
    kept.switch("mid-b")
    until(lambda: Drift.objects.get(pk=flap.pk).ended_at is not None)
    kept.ollama.act("evict", tag="mid-b")
    until(lambda: len(kept.repairs()) == 2)
    until(lambda: kept.ollama.resident() == {"mid-b"})


def test_a_failed_repair_counts(kept: Watched) -> None:
    kept.ollama.fault(kind="fail_load", tag="mid-a")
    kept.ollama.act("evict", tag="mid-a")
    kept.named(Kind.FLAPPING)
    assert [r.state for r in kept.repairs()] == [State.ROLLED_BACK.value] * 2


def test_after_an_hour_repairs_are_tried_again(watched: Watched) -> None:
    """The counting alone: by the clock that it is given."""
    watched.set(drift_policy="repair", repairs_an_hour=1)
    watched.switch("mid-a")
    case = watched_hosts()[watched.host.pk]
    broken = _broken(watched)
    repairs.repair(case, broken, flaps=False)
    (first,) = watched.repairs()
    _end(first)
    repairs.repair(case, broken, flaps=False)
    assert len(watched.repairs()) == 1
    assert watched.named(Kind.FLAPPING)

    class Later:
        def now(self) -> datetime:
            return timezone.now() + timedelta(minutes=61)

        def monotonic(self) -> float:
            return 0.0

        def sleep(self, seconds: float) -> None: ...

    repairs.repair(case, broken, flaps=True, clock=Later())
    assert len(watched.repairs()) == 2
    assert not Drift.objects.filter(kind=Kind.FLAPPING.value, ended_at=None).exists()


def _end(row: SwitchEvent) -> None:
    from switcher.switching.worker import run_once

    run_once(row.pk)
    row.refresh_from_db()
    assert row.ended_at is not None


def _broken(watched: Watched) -> tuple[repairs.OpenDrift, ...]:
    row = Drift.objects.create(
        host=watched.host,
        kind=Kind.EVICTED.value,
        model="mid-a",
        digest=watched.host.active_digest,
        text="mid-a was evicted.",
        since=timezone.now(),
    )
    return (repairs.OpenDrift.of(row),)


@pytest.mark.parametrize("change", ["pulled again", "deleted"])
def test_a_repair_loads_what_was_activated_whatever_became_of_its_name(
    kept: Watched, change: str
) -> None:
    """By its copy: a switch by name would load content that nobody chose."""
    verified = kept.host.active_digest
    if change == "deleted":
        kept.ollama.delete("mid-a")
    else:
        kept.ollama.act("repull", tag="mid-a")
    kept.named(Kind.OTHER_CONTENT, "mid-a")
    (kept_as,) = kept.ollama.resident()
    kept.ollama.act("evict", tag=kept_as)
    until(lambda: len(kept.repairs()) == 1)
    until(lambda: kept.repairs()[0].ended_at is not None)
    assert kept.repairs()[0].state == State.ACTIVE.value, kept.repairs()[0].error
    assert [row["name"] for row in kept.repairs()[0].after or ()] == ["mid-a:latest"]
    assert set(kept.ollama.digests().values()) == {verified}
    kept.host.refresh_from_db()
    assert (kept.host.active_tag, kept.host.active_digest) == ("mid-a", verified)
    kept.named(Kind.OTHER_CONTENT, "mid-a")


def test_a_keep_alive_is_renewed_although_the_name_means_other_content(kept: Watched) -> None:
    kept.ollama.act("repull", tag="mid-a")
    kept.named(Kind.OTHER_CONTENT, "mid-a")
    (copy,) = ModelCopy.objects.values_list("name", flat=True)
    verified = kept.host.active_digest
    before = kept.ollama.rows()["mid-a"]["expires_at"]
    kept.ollama.load(copy, keep_alive="20s")
    until(lambda: kept.ollama.rows()["mid-a"]["expires_at"] > before)
    assert set(kept.ollama.digests().values()) == {verified}


def test_other_content_is_reported_and_never_loaded(kept: Watched) -> None:
    """Somebody has deleted its copy, too: nothing reaches what was activated."""
    kept.ollama.act("repull", tag="mid-a")
    (copy,) = ModelCopy.objects.values_list("name", flat=True)
    kept.ollama.delete(copy)
    kept.named(Kind.OTHER_CONTENT, "mid-a")
    kept.ollama.act("evict", tag="mid-a")
    until(lambda: kept.ollama.resident() == set())
    before = Drift.objects.count()
    seen = _readings(kept)
    until(lambda: _readings(kept) >= seen + 2)
    assert kept.repairs() == []
    assert Drift.objects.count() == before


def _readings(kept: Watched) -> int:
    from switcher.watching.loop import latest

    return int(latest()[kept.host.pk].at.timestamp())


def test_an_admin_who_set_the_policy_to_report_meanwhile_is_heeded(watched: Watched) -> None:
    watched.set(drift_policy="repair")
    watched.switch("mid-a")
    case = watched_hosts()[watched.host.pk]
    watched.set(drift_policy="report")
    repairs.repair(case, _broken(watched), flaps=False)
    assert watched.repairs() == []


def test_a_repair_that_was_decided_before_another_activation_is_dropped(watched: Watched) -> None:
    watched.set(drift_policy="repair")
    watched.switch("mid-a")
    case = watched_hosts()[watched.host.pk]
    watched.switch("mid-b")
    repairs.repair(case, _broken(watched), flaps=False)
    assert watched.repairs() == []


def test_a_ghost_of_ours_is_freed_through_its_copy(kept: Watched) -> None:
    kept.profile("other")
    kept.pin(ModelProfile.objects.get(name="other"))
    until(lambda: kept.ollama.resident() == {"mid-a", "other"})
    kept.settled()
    kept.pin()  # else the switch that brings its new content would unload the old one
    old = kept.ollama.rows()["other"]["digest"]
    kept.ollama.act("repull", tag="other")
    kept.named(Kind.GHOST, "other")
    until(lambda: old not in {r["digest"] for r in kept.ollama.rows().values()})
    until(lambda: AuditEntry.objects.filter(kind="ghost.freed", actor="watcher").exists())
    until(lambda: not Drift.objects.filter(ended_at=None).exists())


def test_a_ghost_that_somebody_else_loaded_is_left_alone(kept: Watched) -> None:
    kept.ollama.load("other", keep_alive="30m")
    kept.ollama.act("repull", tag="other")
    kept.named(Kind.GHOST, "other")
    seen = _readings(kept)
    until(lambda: _readings(kept) >= seen + 4)
    assert "other" in kept.ollama.resident()


def test_what_is_no_longer_pinned_is_unloaded_by_the_next_switch(watched: Watched) -> None:
    watched.pin(watched.profile("embed"))
    watched.switch("mid-a")
    watched.ollama.load("other", keep_alive="30m")
    watched.pin()
    row = watched.switch("mid-a")
    assert watched.ollama.resident() == {"mid-a", "other"}, "theirs stays"
    assert [(i["name"], i["role"]) for i in row.plan["unload"]] == [("embed:latest", "former")]
