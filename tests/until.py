"""Wait for a state instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


def until(state: Callable[[], T], within_s: float = 20.0, what: str = "it") -> T:
    """Return the first true value of `state()`; fail if `what` does not happen in time."""
    deadline = time.monotonic() + within_s
    while not (value := state()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:.0f} s"
        time.sleep(0.01)
    return value


async def until_async(
    state: Callable[[], T | Awaitable[T]], within_s: float = 10.0, what: str = "it"
) -> T:
    """Like `until`, in an event loop; `state` may be a coroutine function."""
    deadline = time.monotonic() + within_s
    while True:
        value: Any = state()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value  # type: ignore[no-any-return]
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:.0f} s"
        await asyncio.sleep(0.005)


def seconds_until(state: Callable[[], object], within_s: float = 20.0) -> float:
    """Wait for a state; return how long that took."""
    began = time.monotonic()
    until(state, within_s)
    return time.monotonic() - began
