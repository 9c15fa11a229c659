"""Translates OpenAI's chats to and from Ollama's own API, for profiles with runner options.

/v1 cannot carry such options, and a request without them reloads the model with its defaults, for
everyone (fact 12). So these requests go to /api/chat, with the options and the keep-alive that the
switch has loaded the model with. Members are mapped as in Ollama's own /v1.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from switcher.domain.specs import Spec, wire_keep_alive
from switcher.gateway.errors import GatewayError
from switcher.gateway.response import SSE_DONE, to_event
from switcher.ollama.errors import NotDone

_OPTIONS = {
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
SAMPLING_MEMBERS = frozenset(_OPTIONS) | {"stop"}
CHAT_MEMBERS = SAMPLING_MEMBERS | {
    *("model", "messages", "stream", "stream_options", "tools", "response_format"),
    *("reasoning", "reasoning_effort"),
}
# The efforts that Ollama's own API does not know, as /v1 translates them.
_EFFORTS: dict[str, Any] = {"none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}
# The values that /v1 uses if neither client nor profile sets them.
_DEFAULTS = {"temperature": 1.0, "top_p": 1.0}
# Raised by code that reads one of Ollama's replies if the reply is malformed.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
MAX_LINE_BYTES = 4_000_000  # bytes of one line of a streamed reply
_IMAGE_PREFIXES = (
    "data:;base64,",
    *(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp")),
)


def to_chat(values: Mapping[str, Any], model: str, spec: Spec) -> dict[str, Any]:
    """Return the body for /api/chat. Raises GatewayError 400, naming the unusable member."""
    chat: dict[str, Any] = {
        "model": model,
        "messages": _messages(values.get("messages")),
        "stream": values.get("stream") is True,
        "options": model_options(values, spec),
        "keep_alive": wire_keep_alive(spec.keep_alive),
    }
    if values.get("tools"):
        chat["tools"] = values["tools"]
    response_format = _format(values.get("response_format"))
    if response_format is not None:
        chat["format"] = response_format
    effort = _effort(values)
    if effort is not None:
        chat["think"] = _EFFORTS.get(effort, effort) if isinstance(effort, str) else effort
    return chat


def model_options(values: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """Return the options to send to Ollama: the client's own if they reload nothing (fact 12), else
    the profile's."""
    options: dict[str, Any] = {**_DEFAULTS, **spec.options}
    for name, ollama_name in _OPTIONS.items():
        if values.get(name) is not None:
            options[ollama_name] = values[name]
    stop = values.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    return options


def _format(response_format: object) -> Any:
    if not isinstance(response_format, dict):
        return None
    if response_format.get("type") == "json_object":
        return "json"
    schema = response_format.get("json_schema")
    return schema.get("schema") if isinstance(schema, dict) else None


def _effort(values: Mapping[str, Any]) -> Any:
    reasoning = values.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return effort or values.get("reasoning_effort")


def _messages(rows: object) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise _unusable("messages", "must be a list of messages")
    tool_names = {
        str(call.get("id")): str(_function(call).get("name", ""))
        for row in rows
        if isinstance(row, dict)
        for call in _tool_calls(row)
    }
    return [message for row in rows for message in _message(row, tool_names)]


def _message(row: object, tool_names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return one message, or one for each part if the content is a list of parts."""
    if not isinstance(row, dict) or not isinstance(row.get("role"), str):
        raise _unusable("messages", "must hold objects with a role")
    role, content = row["role"], row.get("content")
    if isinstance(content, list):
        messages = [{"role": role, **_part(part)} for part in content]
    elif isinstance(content, str):
        messages = [{"role": role, "content": content}]
    elif content is None and (_tool_calls(row) or role == "assistant"):
        messages = [{"role": role, "content": ""}]
    else:
        raise _unusable("messages", "must have text or a list of parts as content")
    if not messages:
        return messages
    last = messages[-1]
    if isinstance(row.get("reasoning"), str):
        last["thinking"] = row["reasoning"]
    if _tool_calls(row):
        last["tool_calls"] = [_tool_call(call) for call in _tool_calls(row)]
    if role == "tool":
        name = row.get("name") or tool_names.get(str(row.get("tool_call_id")))
        if name:
            last["tool_name"] = name
    return messages


def _part(part: object) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind == "text" and isinstance(part.get("text"), str):
        return {"content": part["text"]}
    if isinstance(part, dict) and kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        for prefix in _IMAGE_PREFIXES:
            if isinstance(url, str) and url.startswith(prefix):
                return {"content": "", "images": [url.removeprefix(prefix)]}
        raise _unusable("messages", "has an image that is not a data: URL of a JPEG, PNG or WebP")
    raise _unusable("messages", "has a part that is neither text nor an image_url")


def _tool_calls(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = row.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the call in Ollama's format; OpenAI's has the arguments as text."""
    function = _function(call)
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError) as exc:
        raise _unusable("messages", "has a tool call whose arguments are not JSON") from exc
    return {"function": {"name": function.get("name", ""), "arguments": arguments}}


def _unusable(param: str, text: str) -> GatewayError:
    return GatewayError(400, "invalid_request", f"{param!r} {text}.", param)


class ReplyTranslator:
    """A translator of one reply of Ollama's own API to the client's API."""

    def __init__(self) -> None:
        self._incomplete_line = b""
        self.done = False
        self.error = ""
        self.last_line = b""  # the line that ended the stream, with the token counts

    def check(self, reply: Mapping[str, Any]) -> None:
        """Raise NotDone if a whole reply ended early (fact 10)."""
        if reply.get("done") is not True:
            raise NotDone("The model stopped before its answer was complete.")

    def whole(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        """Translate a whole reply. Raises one of MALFORMED."""
        raise NotImplementedError

    def feed(self, part: bytes) -> bytes:
        """Translate a part of a stream of JSON lines, cut anywhere, to server-sent events.

        Anything other than such lines is reported in `error` and ends the stream.
        """
        *lines, self._incomplete_line = (self._incomplete_line + part).split(b"\n")
        events = b"".join(e for line in lines if line.strip() for e in self._events(line))
        if len(self._incomplete_line) > MAX_LINE_BYTES:
            self.error = self.error or "The host sent a line that is too long."
        return events

    def _events(self, line: bytes) -> Iterator[bytes]:
        if self.error:
            return
        try:
            reply = json.loads(line)
            if reply.get("error"):
                self.error = str(reply["error"])
            else:
                yield from self._translate(reply, line)
        except MALFORMED:
            self.error = "The host sent a line that is not JSON from Ollama."

    def _translate(self, reply: Mapping[str, Any], line: bytes) -> Iterator[bytes]:
        """Yield the events for one line. Raises one of MALFORMED."""
        raise NotImplementedError


class ChatTranslator(ReplyTranslator):
    """A translator of one /api/chat reply to OpenAI's format; all parts share an id and a time."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    part_object = "chat.completion.chunk"

    def __init__(self, model: str, include_usage: bool = False) -> None:
        super().__init__()
        self._head = {
            "id": f"{self.id_prefix}-{uuid.uuid4().hex[:12]}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": "fp_ollama",
        }
        self._include_usage = include_usage
        self._tool_calls = 0

    def whole(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        choice = self.choice(reply, "message")
        return self._object(self.whole_object, [choice]) | {"usage": usage_of(reply)}

    def _translate(self, reply: Mapping[str, Any], line: bytes) -> Iterator[bytes]:
        yield to_event(self._object(self.part_object, [self.choice(reply, "delta")]))
        if reply.get("done") is True:
            self.done, self.last_line = True, line
            if self._include_usage:
                yield to_event(self._object(self.part_object, []) | {"usage": usage_of(reply)})
            yield SSE_DONE

    def choice(self, reply: Mapping[str, Any], member: str) -> dict[str, Any]:
        """Return an OpenAI choice, with the text in `member`: `message`, or `delta` in a stream."""
        message = {"role": "assistant", **self._message(reply)}
        return {"index": 0, member: message, "finish_reason": self.finish_reason(reply)}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}

    def _message(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        message = reply.get("message") or {}
        translated: dict[str, Any] = {"content": message.get("content") or ""}
        if message.get("thinking"):
            translated["reasoning"] = message["thinking"]
        calls = message.get("tool_calls") or []
        if calls:
            translated["tool_calls"] = [self._tool_call(call) for call in calls]
        return translated

    def _tool_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = _function(call)
        index = self._tool_calls
        self._tool_calls += 1
        return {
            "id": call.get("id") or f"call_{uuid.uuid4().hex[:8]}",
            "index": index,
            "type": "function",
            "function": {
                "name": function.get("name", ""),
                "arguments": json.dumps(function.get("arguments") or {}),
            },
        }

    def finish_reason(self, reply: Mapping[str, Any]) -> str | None:
        """Return why the reply ended; None before its end."""
        if reply.get("done") is not True:
            return None
        return "tool_calls" if self._tool_calls else str(reply.get("done_reason") or "stop")


def usage_of(reply: Mapping[str, Any]) -> dict[str, int]:
    """Return the token counts in OpenAI's format."""
    tokens_in = int(reply.get("prompt_eval_count") or 0)
    tokens_out = int(reply.get("eval_count") or 0)
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }
