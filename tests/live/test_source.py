"""The content pushed to pages, from real rows and the pages' templates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from switcher.audit.ledger import SERVER, Actor
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Observation, Resident
from switcher.domain.specs import Spec
from switcher.domain.states import State, Strategy
from switcher.live.fragments import essence
from switcher.live.source import PanelSource
from switcher.models import Host
from switcher.records import claimed_switch, config, leases, readings, switches
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.switches import ResolvedRequest
from switcher.watching import loop

pytestmark = pytest.mark.django_db

ANNA = Actor("anna", "page")


class Wall:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def source(wall: Wall) -> PanelSource:
    return PanelSource(wall)


@pytest.fixture
def host() -> Host:
    return config.save_host(Host(name="north-1", base_url="http://127.0.0.1:9"), SERVER)


def read(host: Host, wall: Wall, *models: str) -> None:
    """Record a reading as the watcher does: kept in memory, not stored."""
    rows = tuple(
        Resident(ModelName.parse(m), f"digest-{m}", 10**9, 10**9, 4096, None) for m in models
    )
    loop._latest[host.pk] = Observation(wall.now(), resident=rows)


def start(host: Host, wall: Wall) -> ClaimedSwitch:
    """Return a switch that has reached loading."""
    spec = Spec(profile="", tag="mid-b:latest", keep_alive="30m")
    request = ResolvedRequest(host, spec, strategy=Strategy.SWAP)
    row, _ = switches.open_switch(request, ANNA, clock=wall)
    fence = leases.take(host.pk, "me", wall)
    assert fence is not None
    held = claimed_switch.claim(row.pk, fence, wall)
    assert held is not None
    return held


def board(source: PanelSource) -> dict[str, str]:
    rendered = source.render(frozenset({"board"}))
    return {key: part.html for key, part in rendered.fragments["board"].items()}


def marks(source: PanelSource) -> dict[str, str]:
    rendered = source.render(frozenset({"board"}))
    return {key: part.mark for key, part in rendered.fragments["board"].items()}


def announced(source: PanelSource, topic: str = "board") -> str:
    html = source.render(frozenset({topic})).announcements.get(topic, "")
    return " ".join(html.split())


def test_a_look_is_one_query(
    source: PanelSource, host: Host, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(1):
        first = source.change_marker()
    config.make_default(host, SERVER)
    assert source.change_marker() != first


def test_a_look_sees_what_another_process_read(source: PanelSource, host: Host, wall: Wall) -> None:
    first = source.change_marker()
    readings.store(host.pk, Observation(wall.now()), 0)
    assert source.change_marker() != first


def test_an_empty_database_can_be_looked_at(source: PanelSource) -> None:
    assert source.change_marker() == (0, None)
    assert "No switch yet" in board(source)["recent"]


def test_all_topics_come_from_few_queries(
    source: PanelSource, host: Host, wall: Wall, django_assert_max_num_queries: Any
) -> None:
    start(host, wall)
    with django_assert_max_num_queries(4):
        source.render(frozenset({"board", "events"}))
    with django_assert_max_num_queries(12):
        source.render(frozenset({"board", "events", "host-north-1"}))


def test_the_parts_of_a_host_are_pushed_by_id(source: PanelSource, host: Host, wall: Wall) -> None:
    read(host, wall, "mid-a:latest")
    parts = board(source)
    for part in ("state", "model", "vram", "meta", "note"):
        start = f'<div id="host-north-1-{part}" hx-swap-oob="innerHTML">'
        assert parts[f"north-1-{part}"].startswith(start)
    assert "mid-a" in parts["north-1-model"]


def test_a_reading_that_changes_its_time_alone_changes_one_part(
    source: PanelSource, host: Host, wall: Wall
) -> None:
    read(host, wall, "mid-a:latest")
    before = marks(source)
    wall.sleep(3)
    read(host, wall, "mid-a:latest")
    after = marks(source)
    assert [k for k in after if after[k] != before[k]] == ["north-1-meta"]


def test_seconds_that_go_by_change_nothing(source: PanelSource, host: Host, wall: Wall) -> None:
    read(host, wall, "mid-a:latest")
    start(host, wall).move(State.CHECKING)
    before = marks(source)
    wall.sleep(2)
    assert marks(source) == before


def test_a_reading_that_gets_old_changes_the_state(
    source: PanelSource, host: Host, wall: Wall
) -> None:
    read(host, wall, "mid-a:latest")
    before = marks(source)
    wall.sleep(16)
    after = marks(source)
    assert after["north-1-state"] != before["north-1-state"]
    assert "16" in board(source)["north-1-state"]


def test_a_switch_that_starts_comes_first_and_once(
    source: PanelSource, host: Host, wall: Wall
) -> None:
    held = start(host, wall)
    key = f"switch-{held.id}"
    text = board(source)[key]
    assert 'hx-swap-oob="afterbegin:#switches"' in text
    assert f'data-live-unless="#{key}"' in text
    assert f'hx-get="/switches/{held.id}/panel"' in text
    assert "<button" not in text
    before = marks(source)
    held.move(State.CHECKING)
    after = marks(source)
    assert after[key] == before[key]
    assert after[f"{key}-rail"] != before[f"{key}-rail"]


def test_a_switch_that_ends_replaces_its_panel(source: PanelSource, host: Host, wall: Wall) -> None:
    held = start(host, wall)
    key = f"switch-{held.id}"
    held.move(State.CHECKING)
    held.end(State.CANCELLED, outcome="Nothing was touched.")
    parts = board(source)
    assert parts[key].startswith('<section hx-swap-oob="true"')
    assert f'data-live-unless="#{key}:not([data-state=&quot;busy&quot;])"' in parts[key]
    assert "hx-get" not in parts[key]
    assert f"{key}-rail" not in parts


def test_a_failure_fetches_the_panel_with_the_button(
    source: PanelSource, host: Host, wall: Wall
) -> None:
    held = start(host, wall)
    held.move(State.CHECKING)
    held.end(State.FAILED, error="No room.", error_code="no-room", outcome="Nothing was touched.")
    text = board(source)[f"switch-{held.id}"]
    assert f'hx-get="/switches/{held.id}/panel" hx-trigger="load"' in text
    assert "<button" not in text


def test_each_phase_is_announced_once_and_failures_as_alarms(
    source: PanelSource, host: Host, wall: Wall
) -> None:
    assert announced(source) == ""
    held = start(host, wall)
    assert "north-1: switch to mid-b requested by anna." in announced(source)
    assert announced(source) == ""
    held.move(State.CHECKING)
    said = announced(source)
    assert 'id="announcer"' in said
    assert "north-1: checking." in said
    assert "alarm" not in said
    held.end(State.FAILED, error="No room.", error_code="no-room", outcome="Nothing was touched.")
    said = announced(source)
    assert 'id="alarm"' in said
    assert "mid-b did not become active. No room. Nothing was touched." in said
    assert announced(source) == ""


def test_a_state_from_before_is_not_announced(source: PanelSource, host: Host, wall: Wall) -> None:
    start(host, wall)
    assert announced(source) == ""


def test_what_people_typed_is_escaped(source: PanelSource, host: Host, wall: Wall) -> None:
    assert announced(source) == ""
    spec = Spec(profile="", tag="mid-b:latest", keep_alive="30m")
    actor = Actor("<b>anna</b>", "page")
    request = ResolvedRequest(host, spec, strategy=Strategy.SWAP, reason="<i>why</i>")
    switches.open_switch(request, actor, clock=wall)
    rendered = source.render(frozenset({"board"}))
    html = "".join(p.html for p in rendered.fragments["board"].values())
    assert "<i>" not in html
    assert "<b>anna" not in html + rendered.announcements["board"]


def test_a_host_of_its_own_page(source: PanelSource, host: Host, wall: Wall) -> None:
    config.save_host(Host(name="south-1", base_url="http://127.0.0.1:8"), SERVER)
    read(host, wall, "mid-a:latest")
    rendered = source.render(frozenset({"host-north-1", "host-gone"}))
    assert set(rendered.fragments) == {"host-north-1"}
    text = "".join(part.html for part in rendered.fragments["host-north-1"].values())
    for part in ("state", "sentence", "warnings", "vramsum", "bar", "resident"):
        assert f'id="host-north-1-{part}"' in text
    assert "mid-a" in text
    assert "south-1" not in text


def test_the_list_of_switches_gets_only_the_newest_number(
    source: PanelSource, host: Host, wall: Wall
) -> None:
    held = start(host, wall)
    parts = source.render(frozenset({"events"})).fragments["events"]
    assert set(parts) == {"new"}
    assert f'data-newest="{held.id}"' in parts["new"].html


def test_a_switch_of_its_own_page(source: PanelSource, host: Host, wall: Wall) -> None:
    held = start(host, wall)
    topic = f"switch-{held.id}"
    rendered = source.render(frozenset({topic, "switch-999"}))
    assert set(rendered.fragments) == {topic}
    assert set(rendered.fragments[topic]) == {f"{topic}-rail", f"{topic}-clock"}


def test_another_host_is_another_shape(source: PanelSource, host: Host) -> None:
    before = source.render(frozenset({"board"})).shape
    config.save_host(Host(name="south-1", base_url="http://127.0.0.1:8"), SERVER)
    assert source.render(frozenset({"board"})).shape != before


def test_the_essence_leaves_seconds_out() -> None:
    text = 'read <time data-relative datetime="X">{} s ago</time><progress data-began="Y" max="9"'
    text += ' value="{}" aria-label="z">{} of 9</progress>'
    assert essence(text.format(1, 1, 1)) == essence(text.format(2, 2, 2))
    assert essence(text) != essence(text.replace("X", "X2"))
