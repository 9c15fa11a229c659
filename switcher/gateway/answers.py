"""Errors in the caller's shape, and the few ASGI messages that carry answers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from switcher.gateway.endpoints import Shape

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[str, str]]


class Watched:
    """A `send` that knows whether anything was sent, and with which status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    @property
    def begun(self) -> bool:
        return self.status > 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        return self._send(message)


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
}


class GatewayError(Exception):
    """Something to answer instead of a completion."""

    def __init__(
        self, status: int, code: str, text: str, param: str | None = None, headers: Headers = ()
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers

    def body(self, shape: Shape) -> dict[str, Any]:
        """As the caller's client expects it."""
        return error(shape, self.status, self.code, str(self), self.param)


def error(
    shape: Shape, status: int, code: str | None, text: str, param: str | None = None
) -> dict[str, Any]:
    """The shape in which clients expect an error (fact 25)."""
    if shape is Shape.OLLAMA:
        return {"error": text}
    kind = _TYPES.get(status, "api_error")
    return {"error": {"message": text, "type": kind, "param": param, "code": code}}


def dump(value: Any) -> bytes:
    """As JSON. Half a surrogate, which JSON can say and UTF-8 cannot, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


async def start(send: Send, status: int, content_type: str, headers: Headers = ()) -> None:
    """The head of an answer whose body follows in parts."""
    pairs = [("content-type", content_type), ("cache-control", "no-store"), *headers]
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in pairs]
    await send({"type": "http.response.start", "status": status, "headers": raw})


def part(send: Send, body: bytes, more: bool = True) -> Awaitable[None]:
    """Some of the body, to be awaited."""
    return send({"type": "http.response.body", "body": body, "more_body": more})


async def whole(
    send: Send, status: int, content_type: str, body: bytes, headers: Headers = ()
) -> None:
    """A whole answer."""
    length = ("content-length", str(len(body)))
    await start(send, status, content_type, [*headers, length])
    await part(send, body, more=False)


async def refuse(send: Send, refusal: GatewayError, shape: Shape) -> None:
    body = dump(refusal.body(shape))
    await whole(send, refusal.status, "application/json", body, refusal.headers)
