"""The addresses that clients of OpenAI and of Ollama use, and what is particular to each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum


class Shape(StrEnum):
    """Whose clients speak so: it decides how an error looks (fact 25)."""

    OPENAI = "openai"
    OLLAMA = "ollama"


class Ending(Enum):
    """What stands in a stream that ended as it should (fact 10): one of these. Each begins a line,
    so that the words of the model cannot contain it: in a JSON string line breaks are escaped. A
    stream of Ollama's ends with a line that says so, for which it has to be read: what a model
    hands to a tool stands in it as JSON of its own."""

    DONE_EVENT = (b"\ndata: [DONE]",)
    RESPONSE_EVENT = (
        b"\nevent: response.completed",
        b"\nevent: response.incomplete",
        b"\nevent: response.failed",
    )
    DONE_LINE = ()
    ANY = (b"",)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that asks a model for something. `path` is the host's own address for it; `task`
    is what is asked: chat, generate, embed or respond."""

    path: str
    shape: Shape
    task: str
    ending: Ending
    streams: bool = False  # where the client does not say


def _openai(path: str, task: str, ending: Ending = Ending.DONE_EVENT) -> Endpoint:
    return Endpoint(path, Shape.OPENAI, task, ending)


def _ollama(path: str, task: str, streams: bool) -> Endpoint:
    return Endpoint(path, Shape.OLLAMA, task, Ending.DONE_LINE if streams else Ending.ANY, streams)


_CHAT = _openai("/v1/chat/completions", "chat")

ANSWERED = {
    "/chat/completions": _CHAT,
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _openai("/v1/completions", "generate"),
    "/v1/embeddings": _openai("/v1/embeddings", "embed", Ending.ANY),
    "/v1/responses": _openai("/v1/responses", "respond", Ending.RESPONSE_EVENT),
    "/api/chat": _ollama("/api/chat", "chat", streams=True),
    "/api/generate": _ollama("/api/generate", "generate", streams=True),
    "/api/embed": _ollama("/api/embed", "embed", streams=False),
    "/api/embeddings": _ollama("/api/embeddings", "embed", streams=False),
}
SHOW = "/api/show"
# Read, never asked of a model.
LISTS = frozenset({"/v1/models", "/api/tags", "/api/ps", "/api/version"})
ONE_MODEL = "/v1/models/"
# These change what is on a host, or what it holds: a key needs the scope `manage`.
MANAGE = {
    "/api/pull": "POST",
    "/api/push": "POST",
    "/api/create": "POST",
    "/api/copy": "POST",
    "/api/delete": "DELETE",
}
# Nothing else of what lies there: a path with dots in it would lead to any other address.
_BLOB = re.compile(r"/api/blobs/sha256[:-][0-9a-f]{64}")

# Where clients of either kind ask; what is not served there is refused in their own shape.
_THEIRS = ("/v1", "/api", "/chat/completions")
# What lies there and is Switchboard's own.
_OURS = frozenset({"/api/docs", "/api/openapi.json"})


def is_theirs(path: str) -> bool:
    """Whether the gateway answers this address, be it with a refusal."""
    under = any(path == root or path.startswith(f"{root}/") for root in _THEIRS)
    return under and path not in _OURS


def is_blob(path: str) -> bool:
    """Whether a path is the address of a model's file."""
    return _BLOB.fullmatch(path) is not None


def shape_of(path: str) -> Shape:
    """Whose clients ask there."""
    return Shape.OLLAMA if path == "/api" or path.startswith("/api/") else Shape.OPENAI
