from __future__ import annotations

import json
from datetime import timedelta

import pytest

from switcher.domain.errors import NotFound
from switcher.domain.states import State, Strategy
from switcher.presentation.switches import switch_view
from switcher.records import switches
from tests import make
from tests.make import ANNA, NOW

pytestmark = pytest.mark.django_db


def states(switch_id: int) -> dict[str, str]:
    view = switch_view(switch_id, NOW)
    return {p.of: p.state for p in view.rail}


def test_there_is_no_view_of_a_switch_that_does_not_exist() -> None:
    with pytest.raises(NotFound):
        switch_view(7, NOW)


def test_rail_shows_what_is_done_under_way_and_to_come() -> None:
    claimed = make.switch_up_to(make.host(), State.LOADING)
    assert states(claimed.id) == {
        "checking": "done",
        "draining": "done",
        "unloading": "done",
        "loading": "now",
        "warming": "todo",
        "verifying": "todo",
        "active": "todo",
    }


def test_rail_of_a_queued_switch_is_all_to_come() -> None:
    row = make.open_switch(make.host(), strategy=Strategy.SWAP)
    assert set(states(row.pk).values()) == {"todo"}


def test_rail_of_a_failed_switch_says_where_it_stopped() -> None:
    row = make.ended_switch(make.host(), end=State.ROLLED_BACK)
    found = states(row.pk)
    assert (found["unloading"], found["loading"], found["warming"]) == ("done", "failed", "skipped")
    view = switch_view(row.pk, NOW)
    assert (view.title, view.end_words) == ("Failed while loading", "Failed, restored")


def test_rail_ends_with_restoring_while_that_lasts() -> None:
    claimed = make.switch_up_to(make.host(), State.WARMING)
    claimed.move(State.RESTORING)
    view = switch_view(claimed.id, NOW)
    assert (view.rail[-1].of, view.rail[-1].state) == ("restoring", "now")
    assert not view.can_cancel


def test_overlap_without_an_old_model_needs_no_unloading() -> None:
    claimed = make.switch_up_to(make.host(), State.ACTIVATING, strategy=Strategy.OVERLAP)
    claimed.activate(State.ACTIVE, make.digest("qwen2.5:14b"))
    assert states(claimed.id)["unloading"] == "skipped"


def test_switch_can_be_cancelled_once() -> None:
    claimed = make.switch_up_to(make.host(), State.LOADING)
    view = switch_view(claimed.id, NOW)
    assert view.can_cancel
    switches.request_cancel(claimed.id, ANNA)
    view = switch_view(claimed.id, NOW)
    assert (view.can_cancel, view.cancel_asked_by) == (False, "anna")


def test_timeline_places_each_phase_within_the_whole() -> None:
    row = make.ended_switch(make.host(), end=State.ROLLED_BACK)
    view = switch_view(row.pk, NOW)
    assert [(s.phase.of, s.kind) for s in view.timeline] == [
        ("checking", "b"),
        ("draining", "b"),
        ("unloading", "b"),
        ("loading", "b-bad"),
        ("restoring", "b-back"),
    ]
    assert view.timeline[-1].x == "60.0%"
    assert view.without_model_s == 3.0


def test_before_and_after_show_what_changed() -> None:
    host = make.host()
    make.ended_switch(host, "llama3.1:8b", at=NOW - timedelta(hours=2))
    row = make.ended_switch(host, before=(make.resident("llama3.1:8b", 4.0),))
    view = switch_view(row.pk, NOW)
    found = {d.label: (d.before, d.after, d.changed) for d in view.differences}
    assert found["Active model"] == ("llama3.1:8b", "qwen2.5:14b", True)
    assert found["Context"] == ("4,096", "4,096", False)
    assert view.record["before"][0]["name"] == "llama3.1:8b"
    assert json.loads(json.dumps(view.record, default=str))["state"] == "active"
    assert view.before_bar is not None
    assert view.before_bar.segments[0].part.kind == "leave"
