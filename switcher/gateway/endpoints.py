"""The paths of OpenAI's, Anthropic's and Ollama's APIs that the gateway answers, and how each one
behaves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum


class ApiStyle(StrEnum):
    """Whose API a path belongs to. It decides the format of errors (fact 25)."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    ANTHROPIC = "anthropic"


class StreamTerminator(Enum):
    """How a complete stream ends (fact 10). The value lists the byte strings that mark the end.

    Each of them begins a line, so a model cannot write one: JSON strings escape line breaks.
    Ollama's own streams have to be parsed instead: a tool call's arguments are JSON that the model
    chose, and may contain `"done":true`.
    """

    DONE_EVENT = (b"\ndata: [DONE]",)
    RESPONSE_EVENT = (
        b"\nevent: response.completed",
        b"\nevent: response.incomplete",
        b"\nevent: response.failed",
    )
    MESSAGE_EVENT = (b"\nevent: message_stop",)
    DONE_LINE = ()
    ANY = (b"",)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that sends a request to a model.

    `path` is the host's own address for it. `streams` is the default for requests that do not say
    whether to stream. `is_common` is false if only some servers have the address.
    """

    path: str
    style: ApiStyle
    task: str
    terminator: StreamTerminator
    streams: bool = False
    is_common: bool = True

    @property
    def unloads(self) -> bool:
        """Return whether a request without a prompt can unload the model (facts 1, 6)."""
        return self.path in {"/api/generate", "/api/chat"}

    @property
    def needs(self) -> str:
        """Return the capability that a model needs for it, as Ollama names it; empty for none."""
        return _NEEDS.get(self.task, "")


def _openai(
    path: str, task: str, terminator: StreamTerminator = StreamTerminator.DONE_EVENT
) -> Endpoint:
    return Endpoint(path, ApiStyle.OPENAI, task, terminator)


def _rare(path: str, task: str) -> Endpoint:
    return Endpoint(path, ApiStyle.OPENAI, task, StreamTerminator.ANY, is_common=False)


def _ollama(path: str, task: str, streams: bool) -> Endpoint:
    terminator = StreamTerminator.DONE_LINE if streams else StreamTerminator.ANY
    return Endpoint(path, ApiStyle.OLLAMA, task, terminator, streams)


# Capabilities that a chat model usually lacks, by task. A reranker has none of its own.
_NEEDS = {"embed": "embedding", "image": "image", "transcribe": "audio"}
_CHAT = _openai("/v1/chat/completions", "chat")

MODEL_ENDPOINTS = {
    "/chat/completions": _CHAT,
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _openai("/v1/completions", "generate"),
    "/v1/embeddings": _openai("/v1/embeddings", "embed", StreamTerminator.ANY),
    "/v1/rerank": _rare("/v1/rerank", "rerank"),
    "/v1/images/generations": _rare("/v1/images/generations", "image"),
    "/v1/images/edits": _rare("/v1/images/edits", "image"),
    "/v1/audio/transcriptions": _rare("/v1/audio/transcriptions", "transcribe"),
    "/v1/audio/translations": _rare("/v1/audio/translations", "transcribe"),
    "/v1/responses": _openai("/v1/responses", "respond", StreamTerminator.RESPONSE_EVENT),
    "/v1/messages": Endpoint(
        "/v1/messages", ApiStyle.ANTHROPIC, "chat", StreamTerminator.MESSAGE_EVENT
    ),
    "/api/chat": _ollama("/api/chat", "chat", streams=True),
    "/api/generate": _ollama("/api/generate", "generate", streams=True),
    "/api/embed": _ollama("/api/embed", "embed", streams=False),
    "/api/embeddings": _ollama("/api/embeddings", "embed", streams=False),
}
COUNT_TOKENS_PATH = "/v1/messages/count_tokens"
SHOW_PATH = "/api/show"
LIST_PATHS = frozenset({"/v1/models", "/api/tags", "/api/ps", "/api/version", "/api/status"})
ME_PATH = "/api/me"
ONE_MODEL_PREFIX = "/v1/models/"
# These change what is on a host's disk or in its memory: a key needs the scope `manage`.
MANAGE_METHODS = {
    "/api/pull": "POST",
    "/api/push": "POST",
    "/api/create": "POST",
    "/api/copy": "POST",
    "/api/delete": "DELETE",
}
# Only a digest: a path with dots could lead to any other address of the host.
_BLOB_PATH = re.compile(r"/api/blobs/sha256[:-][0-9a-f]{64}")


def is_blob_path(path: str) -> bool:
    """Return whether a path is the address of a model's file."""
    return _BLOB_PATH.fullmatch(path) is not None
