from __future__ import annotations

import time

import pytest

from switcher.live import layer
from switcher.live.layer import MemoryLayer


async def test_it_looks_for_what_is_old_each_five_seconds_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(layer.time, "monotonic", lambda: now)
    memory = MemoryLayer(expiry=-1)  # whatever is sent has expired already
    await memory.group_add("g", "specific.one!a")
    await memory.group_send("g", {"type": "x"})
    assert "specific.one!a" in memory.channels
    now += layer.CLEAN_EVERY_S - 0.1
    memory._clean_expired()
    assert "specific.one!a" in memory.channels
    now += 0.2
    memory._clean_expired()
    assert "specific.one!a" not in memory.channels


async def test_messages_arrive() -> None:
    memory = MemoryLayer()
    channel = await memory.new_channel()
    await memory.group_add("g", channel)
    began = time.monotonic()
    await memory.group_send("g", {"type": "x", "text": "hello"})
    assert (await memory.receive(channel))["text"] == "hello"
    assert time.monotonic() - began < 1
