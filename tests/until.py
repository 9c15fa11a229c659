"""Wait for a state, within bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def until(true: Callable[[], object], seconds: float = 20.0) -> float:
    """Wait until it is so; gives how long that took. Fails after `seconds`."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not come to be"
        threading.Event().wait(0.01)
    return time.monotonic() - began
