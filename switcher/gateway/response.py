"""Writes the response to one request as ASGI messages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from switcher.gateway.endpoints import ApiStyle
from switcher.gateway.errors import GatewayError, Headers
from switcher.gateway.renaming import ModelRenamer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"
SSE_TYPE = "text/event-stream"
# nginx would collect a stream and send it all at its end.
_UNBUFFERED = ("x-accel-buffering", "no")
_NO_STORE = ("cache-control", "no-store")
SSE_DONE = b"data: [DONE]\n\n"


class ResponseWriter:
    """A response to one request: its head, then its body in parts."""

    def __init__(self, send: Send, headers: Headers = ()) -> None:
        self._send = send
        self._headers = list(headers)  # of every response
        self.status = 0  # until the response has started
        self.parts = 0  # of the body that were sent
        self.is_over = False
        self.before_start: Callable[[], Awaitable[None]] | None = None
        self._late_ending: Callable[[int, bytes], bytes] | None = None
        self.renamer: ModelRenamer | None = None  # if the host was asked by the name of a copy

    @property
    def started(self) -> bool:
        """Return whether the response has started, so that no other one can be sent."""
        return self.status > 0

    @property
    def waits_open(self) -> bool:
        """Return whether the head of a stream was sent, and its reply has not begun."""
        return self._late_ending is not None and not self.started

    async def open_early(self, content_type: str, ending: Callable[[int, bytes], bytes]) -> None:
        """Send the head of a stream before its reply is known. A whole reply that comes instead,
        such as an error, is sent as the `ending` of the stream.
        """
        self._late_ending = ending
        await self._start(200, [("content-type", content_type), _NO_STORE, _UNBUFFERED])

    async def start_stream(self, content_type: str, headers: Headers = ()) -> None:
        """Send the head of a stream, unless it was sent early."""
        await self.start(200, content_type, [_UNBUFFERED, *headers])

    def add_header(self, header: tuple[str, str]) -> None:
        """Add a header to the response, unless it is there already or the head was sent."""
        if header not in self._headers:
            self._headers.append(header)

    async def start(self, status: int, content_type: str, headers: Headers = ()) -> None:
        """Send the head of a response whose body follows, unless it was sent early."""
        if self.before_start is not None:
            await self.before_start()
        self.status = status
        if self._late_ending is not None:
            return
        await self._start(status, [("content-type", content_type), _NO_STORE, *headers])

    async def send_empty(self, status: int, headers: Headers = ()) -> None:
        """Send a response without a body."""
        self.status = status
        await self._start(status, headers)
        await self.write(b"", more=False)

    async def _start(self, status: int, headers: Headers) -> None:
        if self.renamer is not None:
            headers = [(name, self.renamer.in_text(text)) for name, text in headers]
        raw = [
            (name.encode("latin-1"), text.encode("latin-1", "replace"))
            for name, text in (*headers, *self._headers)
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    def write(self, body: bytes, more: bool = True) -> Awaitable[None]:
        """Send a part of the body; the last one has `more=False`. Await the result."""
        self.parts += 1
        self.is_over = not more
        if self.renamer is not None:
            body = self.renamer.in_part(body, more)
        return self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def send_whole(
        self, status: int, body: bytes, headers: Headers = (), content_type: str = JSON_TYPE
    ) -> None:
        """Send a response whose body is complete."""
        if self.renamer is not None:
            renamer = self.renamer
            body = renamer.in_part(body, more=False) if status == 200 else renamer.anywhere(body)
        await self.start(status, content_type, [*headers, ("content-length", str(len(body)))])
        if self._late_ending is not None:
            body = self._late_ending(status, body)
        await self.write(body, more=False)

    async def send_error(self, error: GatewayError, style: ApiStyle) -> None:
        """Send an error in the style of the client's API."""
        await self.send_whole(error.status, to_json(error.body(style)), error.headers)


def to_json(value: Any) -> bytes:
    """Return compact JSON. A lone surrogate, which UTF-8 cannot encode, becomes `?`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def to_event(value: Any) -> bytes:
    """Return one server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"
