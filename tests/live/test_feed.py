"""The feed, one tick at a time: what it renders, pushes and answers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from switcher.live import feed as feeds
from switcher.live.feed import Feed, group
from switcher.records import changed
from tests.clocks import FakeClock
from tests.live.doubles import FakeSource, KeepingLayer
from tests.until import PATIENCE_S


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def layer() -> KeepingLayer:
    return KeepingLayer()


@pytest.fixture
async def feed(source: FakeSource, layer: KeepingLayer) -> AsyncIterator[Feed]:
    made = Feed(source, layer, asyncio.get_running_loop())
    yield made
    made.stop()


async def settle(layer: KeepingLayer, count: int) -> list[dict[str, Any]]:
    """Return the messages so far, once there are `count`."""
    async with asyncio.timeout(PATIENCE_S):
        while len(layer.sent) < count:
            await asyncio.sleep(0)
    for _ in range(20):  # and no more
        await asyncio.sleep(0)
    assert len(layer.sent) == count
    return [message for _, message in layer.sent]


async def ask(feed: Feed, *topics: str) -> dict[str, Any]:
    asked = asyncio.ensure_future(feed.state(topics))
    await asyncio.sleep(0)
    feed.tick()
    return dict(json.loads(await asked))


async def test_nothing_is_read_without_subscribers(feed: Feed, source: FakeSource) -> None:
    feed.notify()
    feed.tick()
    assert (source.looks, source.renders) == (0, [])


async def test_a_look_without_a_change_is_one_cheap_query(feed: Feed, source: FakeSource) -> None:
    feed.subscribe(["board"])
    feed.tick()
    feed.tick()
    feed.tick()
    assert source.looks == 3
    assert source.renders == [frozenset({"board"})]


async def test_only_what_differs_is_pushed(
    feed: Feed, source: FakeSource, layer: KeepingLayer
) -> None:
    feed.subscribe(["board"])
    feed.tick()
    source.change("board", "b", "<p>2</p>")
    feed.tick()
    (message,) = await settle(layer, 1)
    assert message["html"] == "<p>2</p>"
    assert (message["type"], message["topic"]) == ("fragments", "board")
    assert layer.sent[0][0] == group("board")


async def test_changes_are_pushed_in_order(
    feed: Feed, source: FakeSource, layer: KeepingLayer
) -> None:
    feed.subscribe(["board", "events"])
    feed.tick()
    for n in range(3):
        source.change("board", "b", f"<p>{n}</p>")
        feed.tick()
        source.at += 1  # something else changed
        feed.tick()
    assert [m["html"] for m in await settle(layer, 3)] == ["<p>0</p>", "<p>1</p>", "<p>2</p>"]


async def test_a_notification_pushes_what_changed_only_in_memory(
    feed: Feed, source: FakeSource, layer: KeepingLayer
) -> None:
    feed.subscribe(["board"])
    feed.tick()
    source.texts["board"]["a"] = "<p>read 0 s ago</p>"
    feed.tick()
    await settle(layer, 0)
    feed.notify()
    feed.tick()
    await settle(layer, 1)


async def test_a_state_contains_what_was_pushed_before_it(
    feed: Feed, source: FakeSource, layer: KeepingLayer
) -> None:
    feed.subscribe(["board"])
    feed.tick()
    source.change("board", "b", "<p>2</p>")
    answer = await ask(feed, "board")
    assert answer["type"] == "state"
    assert answer["html"] == "<p>1</p><p>2</p>"
    await settle(layer, 1)


async def test_a_page_that_comes_later_costs_no_rendering(feed: Feed, source: FakeSource) -> None:
    feed.subscribe(["board"])
    feed.tick()
    feed.subscribe(["board"])
    await ask(feed, "board")
    assert len(source.renders) == 1


async def test_another_topic_is_rendered_with_its_first_page(
    feed: Feed, source: FakeSource, layer: KeepingLayer
) -> None:
    feed.subscribe(["board"])
    feed.tick()
    source.texts["events"] = {"list": "<li>1</li>"}
    feed.subscribe(["events"])
    answer = await ask(feed, "events", "board")
    assert answer["html"] == "<li>1</li><p>1</p><p>1</p>"
    await settle(layer, 0)


async def test_a_topic_without_pages_is_not_rendered(feed: Feed, source: FakeSource) -> None:
    feed.subscribe(["board", "events"])
    feed.subscribe(["events"])
    feed.tick()
    feed.unsubscribe(["board", "events"])
    source.at += 1
    feed.tick()
    assert source.renders[-1] == frozenset({"events"})


async def test_announcements_are_made_once_and_not_to_later_pages(
    feed: Feed, source: FakeSource, layer: KeepingLayer
) -> None:
    feed.subscribe(["board"])
    feed.tick()
    source.at += 1
    source.announcements = {"board": "<p>north-1: loading</p>"}
    feed.tick()
    source.at += 1
    answer = await ask(feed, "board")
    (message,) = await settle(layer, 1)
    assert message["html"] == "<p>north-1: loading</p>"
    assert "loading" not in answer["html"]


async def test_another_shape_pushes_the_whole_state(
    feed: Feed, source: FakeSource, layer: KeepingLayer
) -> None:
    """A page without an element for the new host needs the whole state."""
    feed.subscribe(["board"])
    feed.tick()
    source.change("board", "c", "<p>new</p>")
    source.shape = {"board": "a b c"}
    feed.tick()
    (message,) = await settle(layer, 1)
    assert message["type"] == "state"
    assert message["html"] == "<p>1</p><p>1</p><p>new</p>"


async def test_relative_times_are_rendered_again(source: FakeSource, layer: KeepingLayer) -> None:
    clock = FakeClock()
    feed = Feed(source, layer, asyncio.get_running_loop(), clock)
    feed.subscribe(["board"])
    feed.tick()
    clock.pass_time(feeds.RENDER_INTERVAL_S - 0.1)
    feed.tick()
    assert len(source.renders) == 1
    clock.pass_time(0.2)
    source.ticking = True
    feed.tick()
    assert len(source.renders) == 2
    clock.pass_time(feeds.LOOK_INTERVAL_S)
    feed.tick()
    assert len(source.renders) == 3


async def test_a_page_whose_state_could_not_be_read_gets_the_next_one(
    feed: Feed, source: FakeSource
) -> None:
    feed.subscribe(["board"])
    await ask(feed, "board")
    source.fails = True
    asked = asyncio.ensure_future(feed.state(["board"]))
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError):
        feed.tick()
    with pytest.raises(ConnectionError):
        await asked
    source.fails = False
    source.texts["board"]["a"] = "<p>2</p>"  # regardless of the marker
    assert (await ask(feed, "board"))["html"] == "<p>2</p><p>1</p>"


async def test_after_a_failure_the_feed_goes_on(
    source: FakeSource, layer: KeepingLayer, caplog: pytest.LogCaptureFixture
) -> None:
    feed = Feed(source, layer, asyncio.get_running_loop())
    feed.subscribe(["board"])
    source.fails = True
    feed.start()
    try:
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(feed.state(["board"]), PATIENCE_S)
        source.fails = False
        assert "<p>1</p>" in await asyncio.wait_for(feed.state(["board"]), PATIENCE_S)
    finally:
        feed.stop()
    assert "live-feed failed" in caplog.text


async def test_a_commit_wakes_the_thread_at_once(
    source: FakeSource, layer: KeepingLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "LOOK_INTERVAL_S", 3600.0)
    feed = Feed(source, layer, asyncio.get_running_loop())
    monkeypatch.setitem(feeds._feeds, asyncio.get_running_loop(), feed)
    feed.subscribe(["board"])
    feed.start()
    try:
        await asyncio.wait_for(feed.state(["board"]), PATIENCE_S)
        source.change("board", "a", "<p>2</p>")
        threading.Thread(target=changed.send, kwargs={"sender": "switch.loading"}).start()
        await settle(layer, 1)
    finally:
        feed.stop()


async def test_a_page_that_waits_for_a_state_is_answered_at_the_end(
    source: FakeSource, layer: KeepingLayer
) -> None:
    feed = Feed(source, layer, asyncio.get_running_loop())
    feed.start()
    assert feed.running
    feed.stop()
    with pytest.raises(feeds.Stopped):
        await asyncio.wait_for(feed.state(["board"]), PATIENCE_S)
    assert not feed.running
