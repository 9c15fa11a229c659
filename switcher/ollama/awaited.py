"""Tells a watcher that a server which did not answer it has answered somebody in this process."""

from __future__ import annotations

from collections.abc import Callable

_awaited: dict[str, Callable[[], object]] = {}  # by base URL


def wait_for(base_url: str, tell: Callable[[], object]) -> None:
    """Call `tell` at the next answer of a server, once. It may come from any thread."""
    _awaited[base_url.rstrip("/")] = tell


def answered(base_url: str) -> None:
    """Note that a server has answered. Costs nothing unless somebody waits for it."""
    if _awaited and (tell := _awaited.pop(base_url, None)) is not None:
        tell()
