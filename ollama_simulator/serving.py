"""A listening port that can be closed and reopened."""

from __future__ import annotations

import asyncio
import signal

from aiohttp import web

from ollama_simulator.app import make_app
from ollama_simulator.host import Host


class Listener:
    """The listener on a host's port."""

    def __init__(self, host: Host, address: str) -> None:
        # A client that disconnects cancels its handler, and so its load (fact 9).
        self._runner = web.AppRunner(make_app(host), handler_cancellation=True, access_log=None)
        self.address, self.port = address, 0
        self._back: asyncio.Task[None] | None = None
        host.refuse = self.refuse

    async def start(self, port: int) -> None:
        """Start listening. Raises OSError if the port is in use."""
        await self._runner.setup()
        await self._listen(port)
        self.port = self._runner.addresses[0][1]

    async def _listen(self, port: int) -> None:
        await web.TCPSite(self._runner, self.address, port, reuse_address=True).start()

    async def refuse(self, seconds: float, spare: asyncio.BaseTransport | None) -> None:
        """Cut every connection except `spare`, and listen again after `seconds`."""
        if self._back is not None:
            self._back.cancel()
        if seconds:
            for site in list(self._runner.sites):
                await site.stop()
            self._back = asyncio.create_task(self._come_back(seconds))
        self._cut(spare)

    async def _come_back(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen(self.port)

    def _cut(self, spare: asyncio.BaseTransport | None = None) -> None:
        for connection in self._runner.server.connections if self._runner.server else []:
            if connection.transport is not None and connection.transport is not spare:
                connection.transport.abort()

    async def stop(self) -> None:
        if self._back is not None:
            self._back.cancel()
        self._cut()
        await self._runner.cleanup()


async def serve(host: Host, address: str, port: int) -> int:
    """Serve until a signal arrives; return the exit code."""
    listener = Listener(host, address)
    try:
        await listener.start(port)
    except OSError as exc:
        print(f"simulator: cannot listen on {address} port {port}: {exc.strerror}", flush=True)
        return 1
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"simulator listening on http://{address}:{listener.port}", flush=True)
    await stop.wait()
    await listener.stop()
    return 0
