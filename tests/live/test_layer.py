from __future__ import annotations

import time
from typing import Any

import pytest

from switcher.live.layer import OVERFLOW, MemoryLayer


@pytest.fixture
def layer() -> Any:
    return MemoryLayer(capacity=2)


async def test_messages_arrive(layer: Any) -> None:
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "x", "text": "hello"})
    assert (await layer.receive(channel))["text"] == "hello"


async def test_a_full_channel_is_told_so_instead_of_missing_a_message(layer: Any) -> None:
    slow, quick = await layer.new_channel(), await layer.new_channel()
    for channel in (slow, quick):
        await layer.group_add("g", channel)
    for n in range(4):
        await layer.group_send("g", {"type": "x", "n": n})
        assert (await layer.receive(quick))["n"] == n
    assert await layer.receive(slow) == OVERFLOW
    await layer.group_send("g", {"type": "x", "n": 4})
    assert slow not in layer.channels


async def test_a_socket_that_stays_open_for_days_stays_in_its_group(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "x"})
    days_later = time.time() + 3 * 86400
    monkeypatch.setattr("channels.layers.time.time", lambda: days_later)
    await layer.send(other, {"type": "y"})
    await layer.receive(other)
    assert (await layer.receive(channel))["type"] == "x"
    assert channel in layer.groups["g"]


async def test_what_has_gone_leaves_nothing_behind(layer: Any) -> None:
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "x"})
    layer.forget(channel)
    assert layer.channels == {}
    await layer.group_send("g", {"type": "x"})
    assert layer.channels == {}
