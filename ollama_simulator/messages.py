"""Validates chat messages as the server does: one function for `/api`, one for `/v1`."""

from __future__ import annotations

from ollama_simulator.gojson import BadBody, Body, unmarshal_error
from ollama_simulator.server import Unread

NO_URLS = "image URLs are not currently supported, please use base64 encoded data instead"


def api_messages(body: Body) -> list[Body]:
    """Return the messages of an `/api/chat` body: text only. Raises `Unread`."""
    where = "ChatRequest.messages"
    found = _objects(body, where, "api.PublishedName")
    for message in found:
        for name in ("role", "content"):
            if not isinstance(message.get(name) or "", str):
                _unread(message[name], f"{where}.{name}", "string")
    return found


def v1_messages(body: Body) -> list[Body]:
    """Return the messages of a `/v1/chat/completions` body: text or lists of parts. Raises
    `Unread`.
    """
    found = _objects(body, "ChatCompletionRequest.messages", "openai.Message")
    if not found:
        raise Unread("[] is too short - 'messages'", 400)
    for message in found:
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                _check_part(part)
        elif not isinstance(content, str) and not message.get("tool_calls"):
            raise Unread(f"invalid message content type: {_go_type(content)}", 400)
    return found


def _objects(body: Body, where: str, go_type: str) -> list[Body]:
    found: list[Body] = []
    for message in body.get("messages") or []:
        if message is not None and not isinstance(message, dict):
            _unread(message, where, go_type)
        found.append(message or {})
    return found


def _unread(given: object, where: str, go_type: str) -> None:
    try:
        unmarshal_error(given, where, go_type)
    except BadBody as exc:
        raise Unread(str(exc), 400) from exc


def _check_part(part: object) -> None:
    row = part if isinstance(part, dict) else {}
    if row.get("type") == "text" and isinstance(row.get("text"), str):
        return
    image = row.get("image_url")
    if row.get("type") != "image_url" or not isinstance(image, dict | str):
        raise Unread("invalid message format", 400)
    url = image.get("url") if isinstance(image, dict) else image
    if str(url).startswith(("http://", "https://")):
        raise Unread(NO_URLS, 400)


def _go_type(value: object) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    return "map[string]interface {}" if isinstance(value, dict) else "float64"
