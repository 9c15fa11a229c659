"""Wakes this process's workers at once. Only a hint: the rows are the truth (rule 2)."""

from __future__ import annotations

from switcher.concurrency.loop import Loop

_workers: set[Loop] = set()


def worker() -> None:
    """Make this process's workers, if any, look for open switches now."""
    for loop in list(_workers):
        loop.wake()


def add(loop: Loop) -> None:
    _workers.add(loop)


def remove(loop: Loop) -> None:
    _workers.discard(loop)
