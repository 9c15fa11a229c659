"""Completions and embeddings to and from Ollama's own shape, for profiles with runner options.

See translate, which does the same for chats, for why.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

from switcher.domain.specs import wire_keep_alive
from switcher.gateway.answers import GatewayError, dump
from switcher.gateway.body import RELOADING
from switcher.gateway.endpoints import Endpoint
from switcher.gateway.translate import (
    CHAT,
    SAMPLING,
    Answer,
    model_options,
    to_chat,
    usage_of,
)
from switcher.queries.gates import Choice

# The members that are mapped, by task. All others end here: `not_mapped` names them.
_MAPPED = {
    "chat": CHAT,
    "generate": SAMPLING | {"model", "prompt", "suffix", "stream", "stream_options"},
    "embed": frozenset({"model", "input", "dimensions", "encoding_format"}),
}


def not_mapped(endpoint: Endpoint, wanted: Mapping[str, Any]) -> list[str]:
    """What of the request Ollama's own address is not asked for, beside what is passed on nowhere
    (see Wanted.dropped). A member that is null asks for nothing."""
    told = {*_MAPPED[endpoint.task], "keep_alive", "options"}
    names = [name for name, value in wanted.items() if value is not None and name not in told]
    options = wanted.get("options")
    if isinstance(options, dict):
        names += [f"options.{name}" for name in options if name not in RELOADING]
    return sorted(names)


def with_options(
    endpoint: Endpoint, wanted: Mapping[str, Any], choice: Choice
) -> tuple[str, bytes, Answer]:
    """Address, body and answer for a request in OpenAI's shape that has to name the options that
    the model is loaded with. Raises Refusal where that cannot be said."""
    streams = wanted.get("stream_options")
    counts = isinstance(streams, dict) and bool(streams.get("include_usage"))
    if endpoint.task == "chat":
        body = to_chat(wanted, choice.model, choice.spec)
        return "/api/chat", dump(body), Answer(choice.model, counts)
    if endpoint.task == "generate":
        return "/api/generate", dump(_to_generate(wanted, choice)), Completion(choice.model, counts)
    if endpoint.task == "embed":
        as_text = wanted.get("encoding_format") == "base64"
        return "/api/embed", dump(_to_embed(wanted, choice)), Embeddings(choice.model, as_text)
    names = ", ".join(choice.spec.runner_options)
    text = (
        f"The profile of {choice.model} sets {names}, which {endpoint.path} cannot carry: the host "
        "would load the model anew for everyone. Use /v1/chat/completions."
    )
    raise GatewayError(400, "not_with_these_options", text)


def _to_generate(wanted: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    prompt = wanted.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise GatewayError(400, "invalid_request", "'prompt' is a text.", "prompt")
    suffix = wanted.get("suffix")
    return {
        "model": choice.model,
        "prompt": prompt,
        "stream": wanted.get("stream") is True,
        "options": model_options(wanted, choice.spec),
        "keep_alive": wire_keep_alive(choice.spec.keep_alive),
        **({"suffix": suffix} if suffix else {}),
    }


def _to_embed(wanted: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    given = wanted.get("input")
    if not isinstance(given, str) and not _all_text(given):
        text = "'input' is a text or a list of texts."
        raise GatewayError(400, "invalid_request", text, "input")
    dimensions = wanted.get("dimensions")
    return {
        "model": choice.model,
        "input": given,
        "options": dict(choice.spec.runner_options),
        "keep_alive": wire_keep_alive(choice.spec.keep_alive),
        **({"dimensions": dimensions} if dimensions else {}),
    }


def _all_text(given: object) -> bool:
    return isinstance(given, list) and bool(given) and all(isinstance(g, str) for g in given)


class Completion(Answer):
    """An answer of /api/generate as a text_completion."""

    prefix = "cmpl"
    whole_kind = part_kind = "text_completion"

    def choice(self, told: Mapping[str, Any], inside: str) -> dict[str, Any]:
        return {
            "text": told.get("response") or "",
            "index": 0,
            "finish_reason": self.finish(told),
        }


class Embeddings(Answer):
    """An answer of /api/embed as a list of embeddings."""

    def __init__(self, model: str, as_text: bool) -> None:
        super().__init__(model)
        self._model = model
        self._as_text = as_text

    def check(self, told: Mapping[str, Any]) -> None:
        told["embeddings"][0]

    def whole(self, told: Mapping[str, Any]) -> dict[str, Any]:
        data = [
            {"object": "embedding", "embedding": self._vector(vector), "index": index}
            for index, vector in enumerate(told["embeddings"])
        ]
        usage = usage_of(told)
        del usage["completion_tokens"]
        return {"object": "list", "data": data, "model": self._model, "usage": usage}

    def _vector(self, vector: list[float]) -> Any:
        if not self._as_text:
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
