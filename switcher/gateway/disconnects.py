"""Ends the work on a request as soon as its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from switcher.gateway.response import Receive


class ClientDisconnected(Exception):
    """The client has closed its connection, so nobody will read a response."""


# Cancels a request whose client disconnected. A stopping server cancels without a message.
DISCONNECT_REASON = "the client disconnected"


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`. If the client disconnects, cancel it, which also ends the host's work.

    Raises ClientDisconnected.
    """
    task = asyncio.current_task()
    assert task is not None
    watcher = asyncio.create_task(_cancel_on_disconnect(receive, task))
    try:
        await work
    except asyncio.CancelledError:
        if watcher.done() and not watcher.cancelled() and task.uncancel() == 0:
            raise ClientDisconnected from None
        raise
    finally:
        watcher.cancel()


async def _cancel_on_disconnect(receive: Receive, task: asyncio.Task[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel(DISCONNECT_REASON)
