"""Request and response bodies in the formats that `/api` and `/v1` share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from ollama_simulator.gojson import BadBody, Body, read_json
from ollama_simulator.server import Refused, Unread

API_TYPE = "application/json; charset=utf-8"
V1_TYPE = "application/json"
# Fact 25: the `type` of an error under /v1, by status.
V1_KINDS = {400: "invalid_request_error", 404: "not_found_error"}


def answer(value: Any, status: int = 200, content_type: str = API_TYPE) -> web.Response:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return web.Response(body=body, status=status, headers={"Content-Type": content_type})


def error_body(text: str, status: int, path: str) -> Body:
    """Return an error in the format of `/api` or of `/v1` (fact 25)."""
    if not path.startswith("/v1/"):
        return {"error": text}
    kind = V1_KINDS.get(status, "api_error")
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


def error(refused: Refused, path: str) -> web.Response:
    """Return an error response. Under `/v1` the content type has a charset only for unreadable
    bodies.
    """
    late = path.startswith("/v1/") and not isinstance(refused, Unread)
    body = error_body(refused.text, refused.status, path)
    return answer(body, refused.status, V1_TYPE if late else API_TYPE)


def plain(text: str, status: int) -> web.Response:
    return web.Response(body=text.encode(), status=status, headers={"Content-Type": "text/plain"})


async def read_body(request: web.Request, struct: str) -> Body:
    """Parse the body, ignoring its content type. Raises `Unread` with the server's message."""
    raw = (await request.read()).decode("utf-8", "surrogateescape")
    try:
        return read_json(raw, struct)
    except BadBody as exc:
        # Under /v1 the error for an empty body comes from the JSON reader itself.
        empty = request.path.startswith("/v1/") and not raw.strip()
        raise Unread("EOF" if empty else str(exc), 400) from exc


async def stream(
    request: web.Request, parts: AsyncIterator[bytes], content_type: str
) -> web.StreamResponse:
    """Send parts as they come. The headers wait for the first part, so that earlier errors can have
    their own status.
    """
    first = await anext(parts, b"")
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    if first:
        await response.write(first)
    async for part in parts:
        await response.write(part)
    await response.write_eof()
    return response


def line(value: Body) -> bytes:
    """Return one line of NDJSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def event(value: Body, name: str = "") -> bytes:
    """Return one server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + line(value) + b"\n"
