"""Wait for a state instead of sleeping, and never assert how long that took."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

# When a test gives up, in seconds: long enough that only a state that never comes takes so long,
# however busy the machine is.
PATIENCE_S = 60.0


def until(state: Callable[[], T], within_s: float = PATIENCE_S, what: str = "it") -> T:
    """Return the first true value of `state()`; fail if `what` does not happen."""
    deadline = time.monotonic() + within_s
    while not (value := state()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:.0f} s"
        time.sleep(0.01)
    return value


async def until_async(state: Callable[[], T | Awaitable[T]], what: str = "it") -> T:
    """Like `until`, in an event loop; `state` may be a coroutine function."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        value: Any = state()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value  # type: ignore[no-any-return]
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE_S:.0f} s"
        await asyncio.sleep(0.005)
