"""The published name, watched like everything else: against the simulator over real HTTP."""

from __future__ import annotations

from switcher.domain.drift import Kind
from switcher.models import Drift, Host
from switcher.watching.loop import Watcher
from tests.until import until
from tests.watching.conftest import Watched


def means(watched: Watched) -> str:
    return watched.ollama.installed().get("active", "")


def copy(watched: Watched, source: str) -> None:
    watched.ollama.post("/api/copy", source=source, destination="active")


def test_what_is_set_is_carried_out_whatever_the_policy(watched: Watched, watcher: Watcher) -> None:
    watched.switch("mid-a")
    watched.settled()
    watched.set(published_name="active:latest")
    until(lambda: means(watched) == watched.host.active_digest)
    until(lambda: not Drift.objects.filter(ended_at=None).exists())
    watched.set(published_name="")
    until(lambda: not means(watched))


def test_where_drift_is_reported_it_is_named_and_left(watched: Watched, watcher: Watcher) -> None:
    watched.set(published_name="active:latest")
    watched.switch("mid-a")
    watched.settled()
    copy(watched, "mid-b")
    row = watched.named(Kind.PUBLISHED, "active:latest")
    assert row.text == "active should point to mid-a, but points to other content."
    assert row.evidence["wanted"]["digest"] == watched.host.active_digest
    assert means(watched) == row.evidence["now"]["name_means"]


def test_where_drift_is_repaired_it_is_pointed_again(watched: Watched, watcher: Watcher) -> None:
    watched.set(published_name="active:latest", drift_policy="repair")
    watched.switch("mid-a")
    watched.settled()
    watched.ollama.delete("active")
    until(lambda: means(watched) == watched.host.active_digest)
    until(lambda: Drift.objects.filter(kind="published").exclude(ended_at=None).exists())
    assert watched.repairs() == [], "nothing is switched for that"


def test_a_model_that_was_made_over_our_copy_is_named_and_left(
    watched: Watched, watcher: Watcher
) -> None:
    """It has no other name, so it would be lost."""
    watched.set(published_name="active:latest", drift_policy="repair")
    watched.switch("mid-a")
    watched.settled()
    watched.ollama.act("repull", tag="active")
    row = watched.named(Kind.PUBLISHED, "active:latest")
    assert "has a model active that is not Switchboard's" in row.text
    stays = row.evidence["now"]["name_means"]
    watched.set(published_name="")
    until(lambda: not Host.objects.get().published_as)
    assert means(watched) == stays


def test_a_model_of_somebody_else_is_named_and_left(watched: Watched, watcher: Watcher) -> None:
    watched.set(drift_policy="repair")
    watched.switch("mid-a")
    watched.settled()
    copy(watched, "mid-b")
    watched.set(published_name="active:latest")
    row = watched.named(Kind.PUBLISHED, "active:latest")
    assert "has a model active that is not Switchboard's" in row.text
    assert means(watched) != watched.host.active_digest
