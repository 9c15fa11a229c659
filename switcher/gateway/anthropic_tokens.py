"""Estimates how many tokens a prompt has, for clients of Anthropic's API.

Ollama has no address that counts tokens: only a reply tells, at its end, how long its prompt was.
So the size of a prompt is multiplied by the tokens per byte that the model's last reply had; before
the first one, by those that Ollama's own estimates assume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from switcher.gateway.anthropic_messages import chat_messages
from switcher.gateway.body import ParsedRequest
from switcher.gateway.model_selection import select_model
from switcher.gateway.response import ResponseWriter, to_json
from switcher.queries.gates import Route
from switcher.queries.keys import KeyFacts

TOKENS_PER_BYTE = 0.25
# Outside of this, something else was counted: the host cut the prompt, or there was an image in it.
_LEAST_PER_BYTE, _MOST_PER_BYTE = 0.1, 1.0
_LEAST_BYTES = 200  # of a shorter prompt, the model's own template is a large part
_MEMBERS = ("system", "messages", "tools")

_learned: dict[str, float] = {}  # tokens per byte, by model


@dataclass(frozen=True, slots=True)
class PromptSize:
    """The size of a prompt. Images do not count."""

    size_bytes: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PromptSize:
        """Return the size of the prompt in a request."""
        return cls(sum(_size(values.get(name)) for name in _MEMBERS))

    def tokens(self, model: str) -> int:
        """Estimate its tokens."""
        return max(1, round(self.size_bytes * _learned.get(model, TOKENS_PER_BYTE)))

    def learn(self, model: str, tokens: int) -> None:
        """Note how many tokens the model's host has counted."""
        if self.size_bytes >= _LEAST_BYTES:
            ratio = tokens / self.size_bytes
            if _LEAST_PER_BYTE <= ratio <= _MOST_PER_BYTE:
                _learned[model] = ratio


def _size(value: object) -> int:
    """Return the size of all texts in a JSON value, in bytes."""
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, list):
        return sum(map(_size, value))
    if isinstance(value, dict) and value.get("type") != "base64":
        return sum(len(name) + _size(member) for name, member in value.items())
    return 0


async def send_token_count(
    route: Route, body: ParsedRequest, response: ResponseWriter, key: KeyFacts | None
) -> None:
    """Answer how many input tokens a request would have. Raises GatewayError."""
    choice = select_model(route, body.values.get("model"), key)
    chat_messages(body.values)  # refuses what a message would be refused for
    count = {"input_tokens": PromptSize.of(body.values).tokens(choice.model)}
    await response.send_whole(200, to_json(count), [("x-switchboard-model", choice.model)])
