"""The end of an interrupted stream: an error in the format of the client's API."""

from __future__ import annotations

import re
from typing import Any

from switcher.gateway.endpoints import ApiStyle, StreamTerminator
from switcher.gateway.errors import error_body
from switcher.gateway.response import to_event, to_json

# An error that the host itself reported in a stream, in full. A model cannot write one of these:
# JSON strings escape line breaks.
_OWN_ERROR = {
    ApiStyle.OLLAMA: re.compile(rb'(?:^|\n)\{"error":[^\n]*\n'),
    ApiStyle.ANTHROPIC: re.compile(rb"(?:^|\n)event: error\n"),
    ApiStyle.OPENAI: re.compile(
        rb'(?:^|\n)data: ?\{"(?:error"|type": ?"(?:error|response\.failed)")[^\n]*\n\r?\n'
    ),
}
# These occur about once per token, so they count the tokens of an interrupted stream.
TOKEN_MARKS = {
    StreamTerminator.DONE_LINE: b'"done":false',
    StreamTerminator.DONE_EVENT: b"data: {",
    StreamTerminator.RESPONSE_EVENT: b".delta\ndata:",
    StreamTerminator.MESSAGE_EVENT: b"event: content_block_delta\n",
}
_SEQUENCE_NUMBER = re.compile(rb'"sequence_number": ?(\d{1,9})')
_ID = re.compile(rb'"id": ?"(resp_[\w-]{1,80})"')
_CREATED_AT = re.compile(rb'"created_at": ?(\d{1,12})')
_MODEL = re.compile(rb'"model": ?"([\w./:-]{1,200})"')


def has_own_error(style: ApiStyle, tail: bytes) -> bool:
    """Return whether the end of a stream holds an error that the host reported itself."""
    return _OWN_ERROR[style].search(tail) is not None


def error_ending(
    style: ApiStyle, terminator: StreamTerminator, head: bytes, tail: bytes, text: str
) -> bytes:
    """Return the error to send in place of the rest.

    `head` and `tail` are the first and last bytes of the stream so far.
    """
    error = error_body(style, 502, "upstream_failed", text)
    if style is ApiStyle.OLLAMA:
        return to_json(error) + b"\n"
    if style is ApiStyle.ANTHROPIC:
        return b"event: error\n" + to_event(error)
    if terminator is StreamTerminator.RESPONSE_EVENT:
        return _response_failed(error["error"], head, tail)
    return to_event(error)


def _response_failed(error: dict[str, Any], head: bytes, tail: bytes) -> bytes:
    """Return two events. `response.failed` ends a response, but OpenAI's packages raise an
    exception only for an event that contains an `error`: a client that only reads the text would
    take half a reply for a whole one.

    https://developers.openai.com/api/reference/resources/responses/streaming-events
    """
    numbers = _SEQUENCE_NUMBER.findall(tail)
    number = int(numbers[-1]) + 1 if numbers else 0
    failed = {
        "type": "response.failed",
        "sequence_number": number,
        "response": {
            "id": _first(_ID, head),
            "object": "response",
            "created_at": int(_first(_CREATED_AT, head) or 0),
            "status": "failed",
            "model": _first(_MODEL, head),
            "output": [],
            "error": {"code": "server_error", "message": error["message"]},
        },
    }
    raised = {
        "type": "error",
        "sequence_number": number + 1,
        **{name: error[name] for name in ("code", "message", "param")},
        "error": error,
    }
    return b"".join(f"event: {e['type']}\n".encode() + to_event(e) for e in (failed, raised))


def _first(pattern: re.Pattern[bytes], head: bytes) -> str:
    match = pattern.search(head)
    return match[1].decode() if match else ""
