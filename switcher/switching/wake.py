"""The bell that wakes the worker at once. A wake-up only: the rows are the truth (rule 2)."""

from __future__ import annotations

import threading

_bell = threading.Event()


def worker() -> None:
    """Wake the worker of this process, if it has one."""
    _bell.set()


def wait(seconds: float) -> None:
    """Return when rung, or after `seconds` at the latest."""
    _bell.wait(seconds)
    _bell.clear()
