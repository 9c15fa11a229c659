"""Requests that change a host (pull, push, create, copy, delete, blobs), relayed as streams.

Model files are kept in memory in neither direction: they are too large. The other requests are read
first, as they must not name a model copy: requests to models reach what was verified by its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from switcher.domain.model_copies import is_copy_name
from switcher.domain.model_names import ModelName
from switcher.gateway import body as bodies
from switcher.gateway.disconnects import ClientDisconnected, run_while_connected
from switcher.gateway.endpoints import ApiStyle, is_blob_path
from switcher.gateway.errors import GatewayError, error_body
from switcher.gateway.request_head import RequestHead
from switcher.gateway.response import Message, Receive, ResponseWriter, to_json
from switcher.ollama import relay
from switcher.ollama.errors import OllamaError
from switcher.queries.gates import Route


async def relay_change(
    route: Route, head: RequestHead, receive: Receive, response: ResponseWriter
) -> None:
    """Relay the request to the host. Raises GatewayError 400, 403 or 502, ClientDisconnected."""
    if not is_blob_path(head.path):
        body = await bodies.read(head, receive)
        _check_names(body)
        await run_while_connected(receive, _relay(route, head, body, response))
        return
    streamed = _StreamedBody(receive)
    work = _relay(route, head, streamed.parts(), response)
    await run_while_connected(streamed.receive_after, work)


def _check_names(body: bytes) -> None:
    """Refuse a request that names a model copy in any member."""
    for name in bodies.parse(body).values.values():
        if isinstance(name, str) and is_copy_name(ModelName.of_request(name)):
            text = f"{name} is a copy that Switchboard keeps of a model. Name the model itself."
            raise GatewayError(403, "not_allowed", text, "model")


async def _relay(
    route: Route, head: RequestHead, body: bytes | AsyncIterator[bytes], response: ResponseWriter
) -> None:
    try:
        async with relay.ask(route.server, head.method, head.path, body) as upstream:
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
