"""The end of a stream that broke off: an error in the words of the caller's own API."""

from __future__ import annotations

import re
from typing import Any

from switcher.gateway import answers
from switcher.gateway.endpoints import Ending, Shape

# What the host itself tells in a stream, if it came whole, is passed on; ours need not be added.
# Neither can stand in what a model wrote: in a JSON string line breaks are escaped.
_TOLD = {
    Shape.OLLAMA: re.compile(rb'(?:^|\n)\{"error":[^\n]*\n'),
    Shape.OPENAI: re.compile(
        rb'(?:^|\n)data: ?\{"(?:error"|type": ?"(?:error|response\.failed)")[^\n]*\n\n'
    ),
}
# The pieces by which a stream is counted that did not come to its end, about a token each.
PIECES = {
    Ending.DONE_LINE: b'"done":false',
    Ending.DONE_EVENT: b"data: {",
    Ending.RESPONSE_EVENT: b".delta\ndata:",
}
_NUMBER = re.compile(rb'"sequence_number": ?(\d{1,9})')
_ID = re.compile(rb'"id": ?"(resp_[\w-]{1,80})"')
_MADE = re.compile(rb'"created_at": ?(\d{1,12})')
_MODEL = re.compile(rb'"model": ?"([\w./:-]{1,200})"')


def was_told(shape: Shape, tail: bytes) -> bool:
    """Whether the last bytes of a stream tell of the host's own trouble."""
    return _TOLD[shape].search(tail) is not None


def lost(shape: Shape, ending: Ending, head: bytes, tail: bytes, text: str) -> bytes:
    """What to send instead of the rest. `head` and `tail` are the first and the last bytes that
    came of the stream."""
    error = answers.error(shape, 502, "upstream_failed", text)
    if shape is Shape.OLLAMA:
        return answers.dump(error) + b"\n"
    if ending is Ending.RESPONSE_EVENT:
        return _response_failed(error["error"], head, tail)
    return answers.event(error)


def _response_failed(error: dict[str, Any], head: bytes, tail: bytes) -> bytes:
    """Two events. `response.failed` ends a response; but OpenAI's packages raise for an event with
    an `error` in it alone, and who reads only texts would take a half answer for a whole one.

    https://developers.openai.com/api/reference/resources/responses/streaming-events
    """
    numbers = _NUMBER.findall(tail)
    number = int(numbers[-1]) + 1 if numbers else 0
    failed = {
        "type": "response.failed",
        "sequence_number": number,
        "response": {
            "id": _first(_ID, head),
            "object": "response",
            "created_at": int(_first(_MADE, head) or 0),
            "status": "failed",
            "model": _first(_MODEL, head),
            "output": [],
            "error": {"code": "server_error", "message": error["message"]},
        },
    }
    told = {
        "type": "error",
        "sequence_number": number + 1,
        **{name: error[name] for name in ("code", "message", "param")},
        "error": error,
    }
    named = ((row, f"event: {row['type']}\n".encode()) for row in (failed, told))
    return b"".join(name + answers.event(row) for row, name in named)


def _first(pattern: re.Pattern[bytes], head: bytes) -> str:
    found = pattern.search(head)
    return found[1].decode() if found else ""
