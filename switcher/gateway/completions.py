"""Translates OpenAI's completions and embeddings to and from Ollama's own API, for profiles with
runner options. The reason is given in `translate`, which does the same for chats."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

from switcher.domain.specs import wire_keep_alive
from switcher.gateway.body import DROPPED, RELOADING_OPTIONS
from switcher.gateway.endpoints import Endpoint
from switcher.gateway.errors import GatewayError
from switcher.gateway.response import to_json
from switcher.gateway.translate import (
    CHAT_MEMBERS,
    SAMPLING_MEMBERS,
    ChatTranslator,
    model_options,
    to_chat,
    usage_of,
)
from switcher.queries.gates import ModelChoice

_MAPPED_MEMBERS = {
    "chat": CHAT_MEMBERS,
    "generate": SAMPLING_MEMBERS | {"model", "prompt", "suffix", "stream", "stream_options"},
    "embed": frozenset({"model", "input", "dimensions", "encoding_format"}),
}


def unmapped_members(endpoint: Endpoint, values: Mapping[str, Any]) -> list[str]:
    """Return the members for which Ollama's own API has no equivalent, apart from those that are
    never forwarded (ParsedRequest.dropped). Null members are ignored."""
    mapped = _MAPPED_MEMBERS[endpoint.task] | {*DROPPED, "options"}
    names = [name for name, value in values.items() if value is not None and name not in mapped]
    options = values.get("options")
    if isinstance(options, dict):
        names += [f"options.{name}" for name in options if name not in RELOADING_OPTIONS]
    return sorted(names)


def to_ollama(
    endpoint: Endpoint, values: Mapping[str, Any], choice: ModelChoice
) -> tuple[str, bytes, ChatTranslator]:
    """Return path, body and translator for an OpenAI request that needs runner options.

    Raises GatewayError 400 if Ollama's own API has no equivalent.
    """
    stream_options = values.get("stream_options")
    include_usage = isinstance(stream_options, dict) and bool(stream_options.get("include_usage"))
    if endpoint.task == "chat":
        chat = to_chat(values, choice.model, choice.spec)
        return "/api/chat", to_json(chat), ChatTranslator(choice.model, include_usage)
    if endpoint.task == "generate":
        translator = CompletionTranslator(choice.model, include_usage)
        return "/api/generate", to_json(_to_generate(values, choice)), translator
    if endpoint.task == "embed":
        as_base64 = values.get("encoding_format") == "base64"
        embeddings = EmbeddingsTranslator(choice.model, as_base64)
        return "/api/embed", to_json(_to_embed(values, choice)), embeddings
    names = ", ".join(choice.spec.runner_options)
    advice = " Use /v1/chat/completions." if endpoint.task == "respond" else ""
    text = (
        f"The profile of {choice.model} sets {names}, which {endpoint.path} cannot carry: the host "
        f"would reload the model for everyone.{advice}"
    )
    raise GatewayError(400, "not_with_these_options", text)


def _to_generate(values: Mapping[str, Any], choice: ModelChoice) -> dict[str, Any]:
    prompt = values.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise GatewayError(400, "invalid_request", "'prompt' must be a string.", "prompt")
    suffix = values.get("suffix")
    return {
        "model": choice.model,
        "prompt": prompt,
        "stream": values.get("stream") is True,
        "options": model_options(values, choice.spec),
        "keep_alive": wire_keep_alive(choice.spec.keep_alive),
        **({"suffix": suffix} if suffix else {}),
    }


def _to_embed(values: Mapping[str, Any], choice: ModelChoice) -> dict[str, Any]:
    texts = values.get("input")
    if not isinstance(texts, str) and not _is_list_of_texts(texts):
        text = "'input' must be a string or a list of strings."
        raise GatewayError(400, "invalid_request", text, "input")
    dimensions = values.get("dimensions")
    return {
        "model": choice.model,
        "input": texts,
        "options": dict(choice.spec.runner_options),
        "keep_alive": wire_keep_alive(choice.spec.keep_alive),
        **({"dimensions": dimensions} if dimensions else {}),
    }


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


class CompletionTranslator(ChatTranslator):
    """A translator from a reply of /api/generate to a text_completion."""

    id_prefix = "cmpl"
    whole_object = part_object = "text_completion"

    def choice(self, reply: Mapping[str, Any], member: str) -> dict[str, Any]:
        text = reply.get("response") or ""
        return {"text": text, "index": 0, "finish_reason": self.finish_reason(reply)}


class EmbeddingsTranslator(ChatTranslator):
    """A translator from a reply of /api/embed to a list of embeddings."""

    def __init__(self, model: str, as_base64: bool) -> None:
        super().__init__(model)
        self._model = model
        self._as_base64 = as_base64

    def check(self, reply: Mapping[str, Any]) -> None:
        reply["embeddings"][0]

    def whole(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        data = [
            {"object": "embedding", "embedding": self._vector(vector), "index": index}
            for index, vector in enumerate(reply["embeddings"])
        ]
        usage = usage_of(reply)
        del usage["completion_tokens"]
        return {"object": "list", "data": data, "model": self._model, "usage": usage}

    def _vector(self, vector: list[float]) -> Any:
        if not self._as_base64:
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
