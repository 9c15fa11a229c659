"""Which requests the gateway answers, and which address a client meant that got it wrong.

A client appends a path to a base URL that somebody has typed. So there are two common mistakes. A
doubled or trailing slash is ignored. A base URL with one `/v1` or `/api` too many or too few is
answered with the right address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from switcher.gateway.endpoints import (
    COUNT_TOKENS_PATH,
    LIST_PATHS,
    MANAGE_METHODS,
    ME_PATH,
    MODEL_ENDPOINTS,
    ONE_MODEL_PREFIX,
    SHOW_PATH,
    ApiStyle,
    is_blob_path,
)

_ROOTS = ("/v1", "/api", "/chat/completions")
# Where clients arrive if their base URL lacks the `/v1`, or is written as for another service.
_MISTAKEN_ROOTS = (
    *("/models", "/completions", "/embeddings", "/responses", "/rerank", "/images", "/audio"),
    *("/messages", "/openai", "/anthropic"),
)
_OTHER_PATHS = frozenset({"/api/docs", "/api/openapi.json"})  # belongs to the control API
_KNOWN = (
    MODEL_ENDPOINTS.keys()
    | LIST_PATHS
    | MANAGE_METHODS.keys()
    | {COUNT_TOKENS_PATH, SHOW_PATH, ME_PATH}
)
_MAX_SEGMENTS = 8  # of a path, for which the right address is looked for
# For clients that can send neither a header nor a query, such as the command `ollama`.
_KEY_PATH = re.compile(r"/+key/+(sb-[\w-]{1,100})(/.*)?", re.ASCII)
_SLASHES = re.compile(r"//+")


def normalised(path: str) -> str:
    """Return the path with doubled and trailing slashes removed."""
    if path in _KNOWN:
        return path
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def split_key(path: str) -> tuple[str, str]:
    """Return the key that a path begins with, as in `/key/sb-…/api/tags`, and the rest of the path.
    The key is empty if there is none."""
    found = _KEY_PATH.fullmatch(path) if path.startswith(("/key/", "//")) else None
    return (found[1], found[2] or "/") if found else ("", path)


def is_gateway_request(scope: Mapping[str, Any]) -> bool:
    """Return whether the gateway answers a request, even if only with an error."""
    key, rest = split_key(scope["path"])
    path = normalised(rest)
    return bool(key) or is_gateway_path(path) or (path == "/" and _is_probe(scope))


def is_gateway_path(path: str) -> bool:
    """Return whether the gateway answers this path, even if only with an error in its API's
    style.
    """
    path = normalised(path)
    if path in _KNOWN:
        return True
    return path not in _OTHER_PATHS and _is_below((*_ROOTS, *_MISTAKEN_ROOTS), path)


def _is_below(roots: tuple[str, ...], path: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _is_probe(scope: Mapping[str, Any]) -> bool:
    """Return whether a client asks for `/` to find out whether this is an Ollama server.

    Browsers accept HTML, and scripts that use the pages send their session.
    """
    if scope["method"] not in {"GET", "HEAD"}:
        return False
    headers = dict(scope["headers"])
    return b"text/html" not in headers.get(b"accept", b"") and b"cookie" not in headers


@lru_cache(256)
def right_address(path: str) -> str:
    """Return the address that a client probably means by a path that does not exist; empty if
    unknown."""
    segments = path.split("/")[1:]
    if len(segments) > _MAX_SEGMENTS:
        return ""
    for first in range(len(segments)):
        rest = "/".join(segments[first:])
        for address in (f"/{rest}", f"/v1/{rest}", f"/api/{rest}"):
            if exists(address) and address != path:
                endpoint = MODEL_ENDPOINTS.get(address)
                return endpoint.path if endpoint else address
    return ""


def exists(path: str) -> bool:
    """Return whether the gateway serves this path."""
    is_one_model = path.startswith(ONE_MODEL_PREFIX) and len(path) > len(ONE_MODEL_PREFIX)
    return path in _KNOWN or is_one_model or is_blob_path(path)


def style_of(path: str) -> ApiStyle:
    """Return the style of the API that a path belongs to, or that its right address belongs to."""
    endpoint = MODEL_ENDPOINTS.get(path)
    if endpoint is not None:
        return endpoint.style
    meant = path if exists(path) else right_address(path) or path
    if _is_below(("/v1/messages",), meant):
        return ApiStyle.ANTHROPIC
    return ApiStyle.OLLAMA if _is_below(("/api",), meant) else ApiStyle.OPENAI
