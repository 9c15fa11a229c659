"""Each kind of drift is named, and nothing is done about it. (How soon: `test_loop`.)"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from switcher.domain.drift import Kind
from switcher.models import AuditEntry, Drift, ModelCopy
from switcher.watching.loop import Watcher, latest
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S, until
from tests.watching.conftest import Watched

pytestmark = pytest.mark.django_db(transaction=True)

CTX = {"num_ctx": 8192}


def expire(ollama: SimulatedOllama) -> None:
    """Once a reading has seen that its time is short: else nobody can tell it from an eviction."""

    def is_seen_to_expire_soon() -> bool:
        ollama.load("mid-a", keep_alive="5s")
        soon = datetime.now(UTC) + timedelta(seconds=10)
        rows = [row for seen in latest().values() for row in seen.resident]
        return any(row.expires_at is not None and row.expires_at < soon for row in rows)

    until(is_seen_to_expire_soon)
    until(lambda: not ollama.resident())


def fall_to_the_cpu(ollama: SimulatedOllama) -> None:
    ollama.fault(kind="cpu", tag="mid-a", share=0.3)
    ollama.act("evict", tag="mid-a")
    ollama.load("mid-a", keep_alive="30m")


def become_a_ghost(ollama: SimulatedOllama) -> None:
    ollama.load("other", keep_alive="30m")
    ollama.act("repull", tag="other")


HAPPENINGS: dict[Kind, tuple[str, Callable[[SimulatedOllama], None]]] = {
    Kind.EVICTED: ("mid-a", lambda o: o.act("evict", tag="mid-a")),
    Kind.EXPIRED: ("mid-a", expire),
    Kind.RESTARTED: ("mid-a", lambda o: o.act("restart")),
    Kind.RELOADED: ("mid-a", lambda o: o.load("mid-a", keep_alive="30m", options=CTX)),
    Kind.SHORTENED: ("mid-a", lambda o: o.load("mid-a", keep_alive="1m")),
    Kind.ON_CPU: ("mid-a", fall_to_the_cpu),
    Kind.OTHER_CONTENT: ("mid-a", lambda o: o.act("repull", tag="mid-a")),
    Kind.GHOST: ("other", become_a_ghost),
    Kind.FOREIGN: ("other", lambda o: o.load("other")),
    Kind.UNREACHABLE: ("", lambda o: o.act("refuse", seconds=300)),
}


@pytest.mark.parametrize("kind", HAPPENINGS, ids=str)
def test_it_is_named(watched: Watched, watcher: Watcher, kind: Kind) -> None:
    model, happen = HAPPENINGS[kind]
    watched.switch("mid-a")
    watched.settled()
    happen(watched.ollama)
    row = watched.named(kind, model)
    assert row.text
    assert {"wanted", "before", "now"} <= row.evidence.keys()
    entry = AuditEntry.objects.filter(kind="drift.seen").latest("seq")
    body = entry.facts
    assert (body["drift"], body["model"], body["text"]) == (row.kind, row.model, row.text)
    assert (entry.actor, entry.host) == ("watcher", "north-1")


def test_a_restart_that_takes_a_while_is_told_from_an_eviction(
    watched: Watched, watcher: Watcher
) -> None:
    watched.switch("mid-a")
    watched.settled()
    watched.ollama.act("restart", seconds=3)
    assert "stopped answering" in watched.named(Kind.RESTARTED, "mid-a").text


def test_what_is_over_is_ended_with_an_entry(watched: Watched, watcher: Watcher) -> None:
    watched.switch("mid-a")
    watched.settled()
    watched.ollama.act("evict", tag="mid-a")
    row = watched.named(Kind.EVICTED, "mid-a")
    watched.ollama.load("mid-a", keep_alive="30m")
    until(lambda: Drift.objects.get(pk=row.pk).ended_at is not None)
    assert Drift.objects.get(pk=row.pk).ending == "The model is loaded again."
    assert AuditEntry.objects.filter(kind="drift.ended").count() == 1
    assert Drift.objects.count() == 1, "nothing else was seen"


def test_an_admins_switch_is_no_drift(watched: Watched, watcher: Watcher) -> None:
    watched.switch("mid-a")
    watched.switch("mid-b", strategy="swap")
    watched.switch("mid-a", strategy="overlap")
    watched.settled()
    assert not Drift.objects.exists()


def test_a_new_start_goes_on_from_the_rows(watched: Watched) -> None:
    first = Watcher(seed=1, quiet_s=0.5)
    first.start()
    watched.switch("mid-a")
    watched.settled()
    assert first.stop(PATIENCE_S)
    watched.ollama.act("evict", tag="mid-a")
    for _ in range(2):
        again = Watcher(seed=1, quiet_s=0.5)
        again.start()
        row = watched.named(Kind.EVICTED, "mid-a")
        assert "at " in row.text, "it knows of the reading that the first one stored"
        assert again.stop(PATIENCE_S)
    assert Drift.objects.count() == 1


def test_the_policy_report_does_nothing_to_the_host(
    watched: Watched, watcher: Watcher, worker: object
) -> None:
    watched.profile("embed")
    watched.switch("mid-a", keep_alive="40s")
    watched.settled()
    before = len(watched.ollama.writes())
    watched.ollama.act("evict", tag="mid-a")
    row = watched.named(Kind.EVICTED, "mid-a")
    reads = watcher._hosts[watched.host.pk].catalogue_at
    until(lambda: watcher._hosts[watched.host.pk].catalogue_at > reads + 5)
    assert watched.repairs() == []
    # The copy that was held of it goes with it: nothing that the host serves.
    assert set(watched.ollama.writes()[before:]) <= {"/api/copy", "/api/delete"}
    assert Drift.objects.get(pk=row.pk).repair_id is None


def test_the_copy_of_the_active_model_stays_although_the_model_has_left(
    watched: Watched, watcher: Watcher
) -> None:
    """The gateway would load it by this name."""
    watched.switch("mid-a")
    watched.settled()
    (kept,) = ModelCopy.objects.values_list("name", flat=True)
    watched.ollama.act("evict", tag="mid-a")
    watched.named(Kind.EVICTED, "mid-a")
    reads = watcher._hosts[watched.host.pk].catalogue_at
    until(lambda: watcher._hosts[watched.host.pk].catalogue_at > reads + 5)
    assert kept in watched.ollama.installed()
    watched.switch("mid-b")
    assert kept not in watched.ollama.installed()


@pytest.mark.parametrize("loss", ["deleted", "copied over"])
def test_a_copy_that_somebody_took_away_is_made_again(
    watched: Watched, watcher: Watcher, loss: str
) -> None:
    watched.switch("mid-a")
    watched.settled()
    (kept,) = ModelCopy.objects.values_list("name", flat=True)
    digest = watched.ollama.installed()[kept]
    if loss == "deleted":
        watched.ollama.delete(kept)
    else:
        watched.ollama.post("/api/copy", source="mid-b", destination=kept)
    until(lambda: watched.ollama.installed().get(kept) == digest)
