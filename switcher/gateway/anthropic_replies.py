"""Translates replies of Ollama's own API to Anthropic's messages and events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from switcher.gateway.anthropic_tokens import PromptSize
from switcher.gateway.response import to_event
from switcher.gateway.translate import ReplyTranslator

# A stop sequence ends a reply with `stop` too: the host does not tell which of the two it was.
_STOP_REASONS = {"length": "max_tokens"}


class MessageTranslator(ReplyTranslator):
    """A translator of one /api/chat reply to a message, or to the events that build it up."""

    def __init__(self, model: str, prompt: PromptSize) -> None:
        super().__init__()
        self._model = model
        self._prompt = prompt
        self._is_started = False
        self._block_kind = ""  # of the open block; empty if none is open
        self._blocks = 0
        self._calls_tool = False

    def whole(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        """Translate a whole reply. Raises one of MALFORMED."""
        message = reply["message"]
        content = []
        if message.get("thinking"):
            content.append(_block("thinking", message["thinking"]))
        if message.get("content"):
            content.append(_block("text", message["content"]))
        for call in message.get("tool_calls") or []:
            content.append(self._tool_use(call, call["function"].get("arguments") or {}))
        return self._message(content, self._stop_reason(reply), self._usage(reply))

    def _translate(self, reply: Mapping[str, Any], line: bytes) -> Iterator[bytes]:
        if not self._is_started:
            self._is_started = True
            # The host counts only at the end of a reply.
            usage = {"input_tokens": self._prompt.tokens(self._model), "output_tokens": 0}
            yield _event("message_start", message=self._message([], None, usage))
        message = reply.get("message") or {}
        if message.get("thinking"):
            yield from self._add_text("thinking", str(message["thinking"]))
        if message.get("content"):
            yield from self._add_text("text", str(message["content"]))
        for call in message.get("tool_calls") or []:
            yield from self._add_tool_use(call)
        if reply.get("done") is True:
            yield from self._close_block()
            delta = {"stop_reason": self._stop_reason(reply), "stop_sequence": None}
            yield _event("message_delta", delta=delta, usage=self._usage(reply))
            yield _event("message_stop")
            self.done, self.last_line = True, line

    def _add_text(self, kind: str, text: str) -> Iterator[bytes]:
        if self._block_kind != kind:
            yield from self._open_block(kind, _block(kind, ""))
        yield self._delta({"type": f"{kind}_delta", kind: text})

    def _add_tool_use(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield a call at once: Ollama sends the arguments in one piece."""
        yield from self._open_block("tool_use", self._tool_use(call, {}))
        arguments = json.dumps(call["function"].get("arguments") or {}, ensure_ascii=False)
        yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        yield from self._close_block()

    def _open_block(self, kind: str, block: Mapping[str, Any]) -> Iterator[bytes]:
        yield from self._close_block()
        self._block_kind = kind
        yield _event("content_block_start", index=self._blocks, content_block=block)

    def _close_block(self) -> Iterator[bytes]:
        if self._block_kind:
            yield _event("content_block_stop", index=self._blocks)
            self._block_kind = ""
            self._blocks += 1

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._blocks, delta=delta)

    def _tool_use(self, call: Mapping[str, Any], arguments: object) -> dict[str, Any]:
        self._calls_tool = True
        call_id = call.get("id") or f"toolu_{uuid.uuid4().hex[:24]}"
        name = str(call["function"]["name"])
        return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}

    def _message(
        self, content: list[dict[str, Any]], stop_reason: str | None, usage: Mapping[str, int]
    ) -> dict[str, Any]:
        return {
            "id": f"msg_{uuid.uuid4().hex[:24]}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }

    def _stop_reason(self, reply: Mapping[str, Any]) -> str:
        if self._calls_tool:
            return "tool_use"
        return _STOP_REASONS.get(str(reply.get("done_reason")), "end_turn")

    def _usage(self, reply: Mapping[str, Any]) -> dict[str, int]:
        tokens = int(reply.get("prompt_eval_count") or 0)
        self._prompt.learn(self._model, tokens)
        return {"input_tokens": tokens, "output_tokens": int(reply.get("eval_count") or 0)}


def _block(kind: str, text: object) -> dict[str, Any]:
    """Return a block of text or thinking. Only Anthropic signs what its models think."""
    signature = {"signature": ""} if kind == "thinking" else {}
    return {"type": kind, kind: text, **signature}


def _event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\n".encode() + to_event({"type": kind, **members})
