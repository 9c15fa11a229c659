"""Deterministic replies of simulated models, each naming its model."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

WORDS = [
    "switch",
    "model",
    "memory",
    "load",
    "ready",
    "answer",
    "token",
    "prompt",
    "server",
    "queue",
    "light",
    "signal",
    "cable",
    "board",
    "plug",
    "line",
    "call",
    "ring",
    "route",
    "hold",
    "wait",
    "open",
    "close",
    "first",
    "second",
    "warm",
    "cold",
    "fast",
    "slow",
    "near",
    "far",
]
EMBEDDING_LENGTH = 256
_EXAMPLES: dict[object, object] = {
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
}


def tokens_of(model: str, prompt: str, count: int, seed: int) -> list[str]:
    """Return `count` tokens; the first is `[model] `."""
    text = f"{model}|{prompt}|{seed}"
    source = random.Random(hashlib.sha256(text.encode()).digest())
    words = [f"{source.choice(WORDS)} " for _ in range(count - 1)]
    return [f"[{model}] ", *words][:count]


def json_tokens(model: str) -> list[str]:
    """Return the tokens of a reply in JSON mode."""
    return ['{"model": ', json.dumps(model), ', "ok": ', "true", "}"]


def embedding(model: str, text: str, size: int = EMBEDDING_LENGTH) -> list[float]:
    """Return a unit vector that depends only on model and text."""
    source = random.Random(hashlib.sha256(f"{model}|{text}".encode()).digest())
    row = [source.gauss(0, 1) for _ in range(size)]
    length = sum(x * x for x in row) ** 0.5
    return [round(x / length, 8) for x in row]


def wants_tool(messages: list[dict[str, Any]]) -> bool:
    """Return whether the text of the last message asks for a tool call."""
    last = messages[-1] if messages else {}
    return last.get("role") == "user" and "use the tool" in text_of(last).lower()


def tool_call(tools: object) -> dict[str, Any] | None:
    """Return a call of the first tool with an example value for each required argument."""
    first = tools[0] if isinstance(tools, list) and tools else None
    function = first.get("function") if isinstance(first, dict) else None
    if not isinstance(function, dict):
        return None
    schema = function.get("parameters") or {}
    known = schema.get("properties") or {}
    arguments = {
        name: _EXAMPLES.get((known.get(name) or {}).get("type", ""), "example")
        for name in schema.get("required") or []
    }
    return {"name": function.get("name", ""), "arguments": arguments}


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a message, whether it is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        return " ".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    return str(content)


def count_tokens(text: str) -> int:
    """Estimate the number of tokens in a text."""
    return len(text) // 4 + 1
