"""OpenAI's chat shape to and from Ollama's own, for profiles with runner options.

Such options cannot be said through /v1, and a request without them loads the model anew with its
defaults, for everyone (fact 12). So these requests go to /api/chat with the options and the
keep-alive that the switch loaded it with. What is mapped, and how, is what Ollama's /v1 does.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from switcher.domain.specs import Spec, wire_keep_alive
from switcher.gateway.answers import DONE, GatewayError, event
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
SAMPLING = frozenset(_OPTIONS) | {"stop"}
CHAT = SAMPLING | {
    *("model", "messages", "stream", "stream_options", "tools", "response_format"),
    *("reasoning", "reasoning_effort"),
}
# What /v1 sends where neither the client nor the profile says anything.
_DEFAULTS = {"temperature": 1.0, "top_p": 1.0}
# What somebody else's JSON, or none, raises where an answer of Ollama's is read.
NOT_OLLAMAS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
MAX_LINE = 4_000_000  # bytes of one part of a streamed answer
_IMAGES = ("data:;base64,", *(f"data:image/{t};base64," for t in ("jpeg", "jpg", "png", "webp")))


def to_chat(wanted: Mapping[str, Any], model: str, spec: Spec) -> dict[str, Any]:
    """The request for /api/chat. Raises Refusal 400 naming the member that is not usable."""
    chat: dict[str, Any] = {
        "model": model,
        "messages": _messages(wanted.get("messages")),
        "stream": wanted.get("stream") is True,
        "options": model_options(wanted, spec),
        "keep_alive": wire_keep_alive(spec.keep_alive),
    }
    if wanted.get("tools"):
        chat["tools"] = wanted["tools"]
    answer_format = _format(wanted.get("response_format"))
    if answer_format is not None:
        chat["format"] = answer_format
    effort = _effort(wanted)
    if effort is not None:
        chat["think"] = False if effort == "none" else effort
    return chat


def model_options(wanted: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """The client's own go before the profile's, but never those that would reload (fact 12)."""
    options: dict[str, Any] = {**_DEFAULTS, **spec.options}
    for name, ours in _OPTIONS.items():
        if wanted.get(name) is not None:
            options[ours] = wanted[name]
    stop = wanted.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    return options


def _format(wanted: object) -> Any:
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return "json"
    schema = wanted.get("json_schema")
    return schema.get("schema") if isinstance(schema, dict) else None


def _effort(wanted: Mapping[str, Any]) -> str | None:
    reasoning = wanted.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return effort or wanted.get("reasoning_effort")


def _messages(rows: object) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise _bad("messages", "is a list of messages")
    calls = {
        str(call.get("id")): str(_function(call).get("name", ""))
        for row in rows
        if isinstance(row, dict)
        for call in _calls(row)
    }
    return [message for row in rows for message in _message(row, calls)]


def _message(row: object, calls: Mapping[str, str]) -> list[dict[str, Any]]:
    """One message, or one for each part where the content is a list of parts."""
    if not isinstance(row, dict) or not isinstance(row.get("role"), str):
        raise _bad("messages", "has only objects with a role")
    role, content = row["role"], row.get("content")
    if isinstance(content, list):
        made = [{"role": role, **_part(part)} for part in content]
    elif isinstance(content, str):
        made = [{"role": role, "content": content}]
    elif content is None and (_calls(row) or role == "assistant"):
        made = [{"role": role, "content": ""}]
    else:
        raise _bad("messages", "has a content that is neither text nor a list of parts")
    if not made:
        return made
    if isinstance(row.get("reasoning"), str):
        made[-1]["thinking"] = row["reasoning"]
    if _calls(row):
        made[-1]["tool_calls"] = [_call(call) for call in _calls(row)]
    if role == "tool":
        name = row.get("name") or calls.get(str(row.get("tool_call_id")))
        made[-1] |= {"tool_name": name} if name else {}
    return made


def _part(part: object) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind == "text" and isinstance(part.get("text"), str):
        return {"content": part["text"]}
    if isinstance(part, dict) and kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        for prefix in _IMAGES:
            if isinstance(url, str) and url.startswith(prefix):
                return {"content": "", "images": [url.removeprefix(prefix)]}
        raise _bad("messages", "has an image that is no data: address of a JPEG, PNG or WebP")
    raise _bad("messages", "has a part that is neither text nor an image_url")


def _calls(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = row.get("tool_calls")
    return [c for c in calls if isinstance(c, dict)] if isinstance(calls, list) else []


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI has the arguments as text, Ollama as an object."""
    function = _function(call)
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError) as exc:
        raise _bad("messages", "has a tool call whose arguments are not JSON") from exc
    return {"function": {"name": function.get("name", ""), "arguments": arguments}}


def _bad(param: str, text: str) -> GatewayError:
    return GatewayError(400, "invalid_request", f"{param!r} {text}.", param)


class Answer:
    """One answer on its way back: the same id and time in each of its parts. Of a chat; others
    give `choice` another form."""

    prefix = "chatcmpl"
    whole_kind = "chat.completion"
    part_kind = "chat.completion.chunk"

    def __init__(self, model: str, include_usage: bool = False) -> None:
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex[:12]}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": "fp_ollama",
        }
        self._include_usage = include_usage
        self._calls = 0
        self._rest = b""
        self.done = False
        self.error = ""
        self.last = b""  # the line that ended it, which has the tokens' count

    def check(self, told: Mapping[str, Any]) -> None:
        """Raises NotDone where a whole answer was none (fact 10)."""
        if told.get("done") is not True:
            raise NotDone("The model stopped before it had ended its answer.")

    def whole(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """One object from a whole answer of Ollama's."""
        choice = self.choice(told, "message")
        return self._shape(self.whole_kind, [choice]) | {"usage": usage_of(told)}

    def feed(self, part: bytes) -> bytes:
        """Server-sent events from some bytes of Ollama's lines of JSON. What is none, and a line
        that does not end, is told in `error`: nothing is to follow then."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        made = b"".join(e for line in lines if line.strip() for e in self._events(line))
        if len(self._rest) > MAX_LINE:
            self.error = self.error or "The host sent a line that has no end."
        return made

    def _events(self, line: bytes) -> Iterator[bytes]:
        if self.error:
            return
        try:
            yield from self._made_of(json.loads(line), line)
        except NOT_OLLAMAS:
            self.error = "The host sent a line that is not JSON of Ollama's."

    def _made_of(self, told: Mapping[str, Any], line: bytes) -> Iterator[bytes]:
        if told.get("error"):
            self.error = str(told["error"])
            return
        yield event(self._shape(self.part_kind, [self.choice(told, "delta")]))
        if told.get("done") is True:
            self.done, self.last = True, line
            if self._include_usage:
                yield event(self._shape(self.part_kind, []) | {"usage": usage_of(told)})
            yield DONE

    def choice(self, told: Mapping[str, Any], inside: str) -> dict[str, Any]:
        """What was said, under `message` or, in a part, under `delta`."""
        said = {"role": "assistant", **self._said(told)}
        return {"index": 0, inside: said, "finish_reason": self.finish(told)}

    def _shape(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}

    def _said(self, told: Mapping[str, Any]) -> dict[str, Any]:
        message = told.get("message") or {}
        said: dict[str, Any] = {"content": message.get("content") or ""}
        if message.get("thinking"):
            said["reasoning"] = message["thinking"]
        calls = message.get("tool_calls") or []
        if calls:
            said["tool_calls"] = [self._tool_call(call) for call in calls]
        return said

    def _tool_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = _function(call)
        index = self._calls
        self._calls += 1
        return {
            "id": call.get("id") or f"call_{uuid.uuid4().hex[:8]}",
            "index": index,
            "type": "function",
            "function": {
                "name": function.get("name", ""),
                "arguments": json.dumps(function.get("arguments") or {}),
            },
        }

    def finish(self, told: Mapping[str, Any]) -> str | None:
        """Why it ended; None before its end."""
        if told.get("done") is not True:
            return None
        return "tool_calls" if self._calls else str(told.get("done_reason") or "stop")


def usage_of(told: Mapping[str, Any]) -> dict[str, int]:
    """Tokens, as OpenAI's clients read them."""
    asked, said = int(told.get("prompt_eval_count") or 0), int(told.get("eval_count") or 0)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
