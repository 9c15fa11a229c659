"""`manage.py` with five additional paths that put stress on a server."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import django

django.setup()

from asgiref.sync import sync_to_async  # noqa: E402

import project.asgi  # noqa: E402
from project.command import main  # noqa: E402

product = project.asgi.application
never = threading.Event()
# More than all the buffers between a server and a client on this machine hold.
FLOOD = 64


async def application(scope: Any, receive: Any, send: Any) -> None:
    path = scope.get("path")
    if path == "/extra/stream":
        await _start(send)
        while True:
            await send({"type": "http.response.body", "body": b"x\n", "more_body": True})
            await asyncio.sleep(0.01)
    elif path == "/extra/breaks":
        await _start(send)
        await send({"type": "http.response.body", "body": b"x\n", "more_body": True})
        raise ValueError("no more of this")
    elif path == "/extra/flood":
        await _start(send)
        for sent in range(FLOOD):
            print(f"sent {sent} MB", flush=True)
            await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})
        await send({"type": "http.response.body"})
    elif path == "/extra/thread":
        await _start(send)
        await send({"type": "http.response.body", "body": b"x\n", "more_body": True})
        await sync_to_async(never.wait, thread_sensitive=False)(300)
    elif path == "/extra/body":
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await _start(send)
        await send({"type": "http.response.body", "body": str(size).encode()})
    else:
        await product(scope, receive, send)


async def _start(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


project.asgi.application = application

if __name__ == "__main__":
    main()
