from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from switcher.domain.drift import Kind
from switcher.domain.states import State
from switcher.models import FailureSeen
from switcher.presentation.board import board
from switcher.presentation.hosts import HostView
from switcher.records import config, drifts, readings, switches
from tests import make
from tests.make import ANNA, GB, NOW

pytestmark = pytest.mark.django_db

QueryCount = Callable[[int], AbstractContextManager[Any]]


def row(name: str = "north-1") -> HostView:
    return next(h for h in board(NOW).hosts if h.name == name)


def activated(tag: str = "llama3.1:8b", **values: Any) -> Any:
    host = make.host(**values)
    make.ended_switch(host, tag)
    return host


def test_board_takes_four_queries(django_assert_num_queries: QueryCount) -> None:
    for name in ("north-1", "north-2"):
        host = make.host(name, make.seen(make.resident("llama3.1:8b")))
        make.ended_switch(host, "llama3.1:8b")
        make.ended_switch(host, "qwen2.5:14b", State.ROLLED_BACK)
    make.profile()
    make.open_switch(host)
    with django_assert_num_queries(4):
        facts = board(NOW)
        assert [h.name for h in facts.hosts] == ["north-1", "north-2"]
        assert facts.running == 1


def test_host_that_holds_its_active_model_is_active() -> None:
    activated(seen=make.seen(make.resident("llama3.1:8b")))
    host = row()
    assert (host.state, host.word, host.model) == ("active", "Active", "llama3.1:8b")
    assert host.bar.segments[0].width == "20.83%"
    assert (
        host.bar.text == "Memory on north-1: 5.0 of 24.0\u00a0GB. llama3.1:8b 5.0\u00a0GB active."
    )
    assert host.notes == ()


def test_host_shows_what_is_loaded_and_names_its_drift() -> None:
    host = activated(seen=make.seen(make.resident("phi4:14b")))
    make.drift(host, Kind.EVICTED, "llama3.1:8b", "llama3.1:8b was evicted.")
    make.drift(
        host, Kind.FOREIGN, "phi4:14b", "phi4:14b is loaded although nobody asked for it here."
    )
    shown = row()
    assert (shown.state, shown.model) == ("warning", "phi4:14b")
    assert [(n.text, n.names) for n in shown.notes] == [
        ("llama3.1:8b was evicted.", ("llama3.1:8b",)),
        ("phi4:14b is loaded although nobody asked for it here.", ("phi4:14b",)),
    ]


def test_a_drift_that_the_reading_contradicts_is_not_shown() -> None:
    """Just after a switch, the watcher has not judged the new state yet."""
    host = activated(seen=make.seen(make.resident("llama3.1:8b")))
    make.drift(host, Kind.EVICTED, "llama3.1:8b")
    make.drift(host, Kind.RELOADED, "gemma2:27b")  # active before
    make.drift(host, Kind.GHOST, "phi4:14b")
    make.drift(host, Kind.UNREACHABLE)
    assert (row().notes, row().state) == ((), "active")
    drifts.record_flapping(host.pk, "north-1 keeps drifting.", {})
    assert [n.text for n in row().notes] == ["north-1 keeps drifting."]


def test_host_with_nothing_loaded_is_idle_and_no_warning() -> None:
    activated(seen=make.seen())
    host = row()
    assert (host.state, host.word, host.model) == ("idle", "Nothing loaded", "")
    assert not host.needs_attention


def test_pinned_models_alone_are_no_drift() -> None:
    host = activated(seen=make.seen(make.resident("embed:latest", 0.5)))
    config.set_pinned(host, [make.profile("embed")], ANNA)
    assert row().state == "idle"
    assert row().bar.segments[0].part.kind == "pin"


def test_model_past_its_expiry_is_overdue() -> None:
    late = make.resident("phi4:14b", 3.4, expires_at=NOW - timedelta(minutes=4))
    activated(seen=make.seen(make.resident("llama3.1:8b"), late))
    assert [s.part.kind for s in row().bar.segments] == ["active", "ghost"]


def test_model_partly_on_the_cpu_is_slow_only_if_it_was_faster_before() -> None:
    host = activated(seen=make.seen(make.resident("llama3.1:8b", size_vram=4 * GB)))
    assert (row().state, row().word) == ("active", "Active"), "as it always was, for all we know"
    make.drift(host, Kind.ON_CPU, "llama3.1:8b")
    assert (row().state, row().word) == ("warning", "Active, slow")


def test_host_is_stale_when_its_reading_is_older_than_15_s() -> None:
    old = make.seen(make.resident("llama3.1:8b"), at=NOW - timedelta(seconds=47))
    activated(seen=old)
    host = row()
    assert (host.state, host.word) == ("stale", "47\u00a0s old")
    assert host.bar.segments[0].part.kind == "lost"


def test_host_is_offline_after_three_failed_reads_and_keeps_what_it_last_held() -> None:
    host = activated(seen=make.seen(make.resident("llama3.1:8b"), at=NOW - timedelta(minutes=18)))
    failed = make.seen(error="Connection refused at http://north-1.test:11434.")
    readings.store(host.pk, failed, 2)
    assert row().state == "stale"
    readings.store(host.pk, failed, 3)
    shown = row()
    assert (shown.state, shown.model, shown.last_known) == ("offline", "llama3.1:8b", True)
    assert "Check that Ollama runs on north-1" in shown.notes[-1].text
    assert board(NOW).answering == 0


def test_host_that_was_never_read_says_so() -> None:
    make.host()
    assert (row().state, row().word) == ("stale", "Not read yet")


def test_fresh_reading_of_this_process_wins_over_an_older_stored_one() -> None:
    host = activated(seen=make.seen(make.resident("llama3.1:8b")))
    fresh = make.seen(at=NOW - timedelta(seconds=1))
    assert board(NOW, {host.pk: fresh}).hosts[0].model == ""
    older = replace(fresh, at=NOW - timedelta(seconds=30))
    assert board(NOW, {host.pk: older}).hosts[0].model == "llama3.1:8b"


def test_failed_switch_is_shown_until_somebody_has_seen_it() -> None:
    old = make.resident("llama3.1:8b")
    host = activated(seen=make.seen(old))
    failed = make.ended_switch(host, "gemma2:27b", State.ROLLED_BACK, before=(old,))
    assert (row().state, row().word) == ("failed", "Active, switch failed")
    assert row().notes[0].href == f"/switches/{failed.pk}/"
    switches.mark_seen(failed.pk, ANNA)
    assert FailureSeen.objects.count() == 1
    assert row().state == "active"


def test_degraded_host_is_shown_as_failed() -> None:
    host = activated(seen=make.seen())
    claimed = make.switch_up_to(host, State.LOADING, "gemma2:27b")
    claimed.move(State.RESTORING)
    claimed.end(State.FAILED, degraded=True, outcome="north-1 holds no model.")
    shown = row()
    assert (shown.state, shown.word) == ("failed", "Not restored")
    assert shown.notes[0].text == "north-1 holds no model."


def test_running_switch_makes_its_host_busy_with_the_phase() -> None:
    host = activated(seen=make.seen())
    make.switch_up_to(host, State.LOADING, "gemma2:27b")
    assert (row().state, row().word) == ("busy", "Loading")
    assert [s.to_model for s in board(NOW).panels] == ["gemma2:27b"]


def test_switch_that_has_just_ended_keeps_its_panel_for_a_minute() -> None:
    host = make.host(seen=make.seen())
    make.ended_switch(host, at=NOW - timedelta(seconds=30))
    assert [v.state for v in board(NOW).panels] == ["active"]
    assert board(NOW + timedelta(minutes=2)).panels == ()


def test_recent_switches_are_the_six_newest() -> None:
    host = make.host()
    for hour in range(8, 0, -1):
        make.ended_switch(host, f"model-{hour}", at=NOW - timedelta(hours=hour))
    names = [e.to_model for e in board(NOW).recent_switches]
    assert names == [f"model-{n}" for n in range(1, 7)]


def test_choices_are_profiles_and_models_without_one() -> None:
    make.profile("qwen2.5:14b", "one")
    make.profile("qwen2.5:14b", "two")
    make.profile("phi4:14b", "phi")
    disk = (make.installed("qwen2.5:14b"), make.installed("gemma2:9b"))
    make.host(seen=make.seen(on_disk=disk))
    facts = board(NOW)
    labels = [c.label for c in facts.profiles]
    assert labels == ["qwen2.5:14b · one", "phi4:14b", "qwen2.5:14b · two"]
    assert [(c.value, c.label) for c in facts.models] == [("=gemma2:9b", "gemma2:9b")]
