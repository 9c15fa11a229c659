"""The socket of one page, without a server: access, first message, closing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

import pytest
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

from switcher.live import consumer, feed
from switcher.live.consumer import LiveConsumer
from switcher.live.feed import Feed
from tests.live.doubles import FakeSource
from tests.until import PATIENCE_S, until_async

Connect = Callable[..., Coroutine[Any, Any, WebsocketCommunicator]]


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
async def running(source: FakeSource, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Feed]:
    """Run the feed of this test's loop on the test double. It looks only when it is woken."""
    monkeypatch.setattr(feed, "LOOK_INTERVAL_S", 3600.0)
    monkeypatch.setattr(feed, "RENDER_INTERVAL_S", 3600.0)
    loop = asyncio.get_running_loop()
    layer = get_channel_layer()
    assert layer is not None
    made = Feed(source, layer, loop)
    monkeypatch.setitem(feed._feeds, loop, made)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the sessions with access, a set that may change while sockets are open."""
    keys = {"a-session"}
    monkeypatch.setattr(consumer, "may_view", lambda key: key in keys)
    return keys


@pytest.fixture
async def connect(running: Feed, allowed: set[str]) -> AsyncIterator[Connect]:
    opened = []

    async def open_one(query: str = "topics=board", key: str = "a-session") -> Any:
        page = WebsocketCommunicator(
            consumer.app,
            f"{consumer.PATH}?{query}",
            headers=[
                (b"origin", b"http://localhost"),
                (b"host", b"localhost"),
                (b"cookie", f"session_id={key}".encode()),
            ],
        )
        opened.append(page)
        accepted, _ = await page.connect(timeout=PATIENCE_S)
        assert accepted
        return page

    yield open_one
    for page in opened:
        await page.disconnect()


def look(running: Feed) -> None:
    """Make the feed look for changes, as it does by itself every second."""
    running._thread.wake()


async def read(page: WebsocketCommunicator, kind: str) -> dict[str, Any]:
    """Return the next message of a kind."""
    async with asyncio.timeout(PATIENCE_S):
        while (message := dict(json.loads(await page.receive_from(PATIENCE_S))))["type"] != kind:
            pass
    return message


async def read_close(page: WebsocketCommunicator) -> int:
    while (message := await page.receive_output(timeout=PATIENCE_S))["type"] != "websocket.close":
        pass
    return int(message["code"])


async def test_the_whole_state_comes_first(connect: Connect) -> None:
    page = await connect()
    first = json.loads(await page.receive_from(timeout=PATIENCE_S))
    assert first["type"] == "state"
    assert first["html"] == "<p>1</p><p>1</p>"


async def test_a_change_comes_to_every_page(
    connect: Connect, source: FakeSource, running: Feed
) -> None:
    pages = [await connect() for _ in range(3)]
    for page in pages:
        await read(page, "state")
    source.change("board", "a", "<p>2</p>")
    look(running)
    for page in pages:
        assert (await read(page, "fragments"))["html"] == "<p>2</p>"
    assert len(source.renders) == 2  # once for all pages


async def test_a_page_gets_its_topics_alone(
    connect: Connect, source: FakeSource, running: Feed
) -> None:
    source.texts["host-north-1"] = {"h": "<p>north</p>"}
    page, other = await connect("topics=board,events"), await connect("topics=host-north-1")
    await read(page, "state")
    await read(other, "state")
    source.change("host-north-1", "h", "<p>2</p>")
    source.change("events", "list", "<li>1</li>")
    running.notify()
    assert (await read(page, "fragments"))["topic"] == "events"
    assert (await read(other, "fragments"))["topic"] == "host-north-1"
    assert await page.receive_nothing()


async def test_what_is_pushed_while_a_page_connects_follows_its_state(
    connect: Connect, source: FakeSource, running: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await connect()
    await read(first, "state")
    state = running.state

    async def slow_state(topics: Iterable[str]) -> str:
        text = await state(topics)
        source.change("board", "a", "<p>2</p>")
        running.notify()
        await read(first, "fragments")
        return text

    monkeypatch.setattr(running, "state", slow_state)
    page = await connect()
    assert (await read(page, "state"))["html"] == "<p>1</p><p>1</p>"
    assert (await read(page, "fragments"))["html"] == "<p>2</p>"


async def test_a_page_that_falls_behind_is_closed_and_reads_the_state_again(
    connect: Connect, source: FakeSource, running: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would miss a message; the state contains everything that it needs."""
    layer: Any = get_channel_layer()
    monkeypatch.setattr(layer, "capacity", 2)
    stuck, may_go_on = await connect(), asyncio.Event()
    await read(stuck, "state")
    send = LiveConsumer.send

    async def slow_send(self: LiveConsumer, message: dict[str, Any]) -> None:
        if message.get("text", "").startswith('{"type": "fragments"'):
            await may_go_on.wait()
        await send(self, message)

    monkeypatch.setattr(LiveConsumer, "send", slow_send)
    for n in range(5):
        source.change("board", "a", f"<p>{n}</p>")
        look(running)
        await until_async(lambda n=n: len(source.renders) == n + 2)
    await until_async(lambda: layer.groups[feed.group("board")] == {})
    may_go_on.set()
    assert await read_close(stuck) == 4408
    again = await connect()
    assert (await read(again, "state"))["html"] == "<p>4</p><p>1</p>"


async def test_heartbeats_follow_the_state(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "HEARTBEAT_INTERVAL_S", 0.02)
    page = await connect()
    await read(page, "state")
    for _ in range(3):
        assert set(await read(page, "beat")) == {"type", "at"}


@pytest.mark.parametrize("key", ["", "somebody-else"])
async def test_a_user_who_may_not_view_is_turned_away(
    key: str, connect: Connect, source: FakeSource
) -> None:
    page = await connect(key=key)
    assert await read_close(page) == 4401
    assert source.renders == []


async def test_a_user_who_signs_out_is_turned_away_later(
    connect: Connect, allowed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "HEARTBEAT_INTERVAL_S", 0.01)
    monkeypatch.setattr(consumer, "CHECK_INTERVAL_S", 0.02)
    page = await connect()
    await read(page, "state")
    await read(page, "beat")
    allowed.clear()
    assert await read_close(page) == 4401


async def test_nobody_is_signed_out_because_the_database_is_away(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "HEARTBEAT_INTERVAL_S", 0.01)
    monkeypatch.setattr(consumer, "CHECK_INTERVAL_S", 0.0)
    page = await connect()
    asked = []

    def away(key: str) -> bool:
        asked.append(key)
        raise ConnectionError("the database is away")

    monkeypatch.setattr(consumer, "may_view", away)
    await until_async(lambda: len(asked) > 3)
    await read(page, "beat")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "topics=",
        "topics=everything",
        "topics=board,events,host-a,host-b,host-c",
        "topics=host-../x",
        "topics=switch-0",
        "topics=host-" + "x" * 41,
    ],
)
async def test_an_unknown_topic_is_refused(query: str, connect: Connect) -> None:
    assert await read_close(await connect(query)) == 4400


@pytest.mark.parametrize("said", [{"text_data": "{}"}, {"bytes_data": b"x"}])
async def test_a_page_that_sends_something_is_refused(
    said: dict[str, Any], connect: Connect
) -> None:
    page = await connect()
    await page.send_to(**said)
    assert await read_close(page) == 4400


async def test_pages_that_have_gone_are_not_counted(connect: Connect, running: Feed) -> None:
    page = await connect()
    await read(page, "state")
    assert running._subscribers == {"board": 1}
    await page.disconnect()
    await until_async(lambda: not running._subscribers)
    layer: Any = get_channel_layer()
    assert not layer.groups.get(feed.group("board"))
    assert layer.channels == {}


async def test_a_feed_that_fails_asks_the_page_to_try_again(
    connect: Connect, source: FakeSource
) -> None:
    source.fails = True
    assert await read_close(await connect()) == 4503
