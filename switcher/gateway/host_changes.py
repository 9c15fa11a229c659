"""Requests that change a host (pull, push, create, copy, delete, blobs), relayed as streams.

Neither direction is kept in memory: model files are too large.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from switcher.gateway.disconnects import ClientDisconnected, run_while_connected
from switcher.gateway.endpoints import ApiStyle
from switcher.gateway.errors import GatewayError, error_body
from switcher.gateway.request_head import RequestHead
from switcher.gateway.response import Message, Receive, ResponseWriter, to_json
from switcher.ollama import relay
from switcher.ollama.errors import OllamaError
from switcher.queries.gates import Route


async def relay_change(
    route: Route, head: RequestHead, receive: Receive, response: ResponseWriter
) -> None:
    """Relay the request to the host. Raises GatewayError 502, ClientDisconnected."""
    body = _StreamedBody(receive)
    await run_while_connected(body.receive_after, _relay(route, head, body, response))


async def _relay(
    route: Route, head: RequestHead, body: _StreamedBody, response: ResponseWriter
) -> None:
    try:
        async with relay.ask(route.server, head.method, head.path, body.parts()) as upstream:
            if not upstream.is_json:  # another service's page would look like ours
                raise upstream.not_json_error()
            if upstream.streams and upstream.status == 200:
                await response.start_stream(upstream.content_type)
            else:
                await response.start(upstream.status, upstream.content_type)
            async for part in upstream.parts():
                await response.write(part)
    except OllamaError as exc:
        if not response.started:
            raise GatewayError(502, "upstream_failed", f"{route.host}: {exc.text}") from exc
        error = error_body(ApiStyle.OLLAMA, 502, "upstream_failed", exc.text)
        await response.write(b"\n" + to_json(error) + b"\n")
    await response.write(b"", more=False)


class _StreamedBody:
    """A request body that is read part by part."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._complete = asyncio.Event()

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body's parts. Raises ClientDisconnected."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            yield message.get("body", b"")
            more = message.get("more_body", False)
        self._complete.set()

    async def receive_after(self) -> Message:
        """Receive the next message after the body has been read."""
        await self._complete.wait()
        return await self._receive()
