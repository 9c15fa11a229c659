"""The JSON body of a request: bounded, parsed, and rewritten without touching other members."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.decoder import WHITESPACE  # type: ignore[attr-defined]  # not in the stubs
from types import MappingProxyType
from typing import Any

from django.conf import settings

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import RUNNER_OPTIONS
from switcher.gateway.content_encoding import decode
from switcher.gateway.disconnects import ClientDisconnected
from switcher.gateway.errors import GatewayError
from switcher.gateway.request_head import RequestHead
from switcher.gateway.response import JSON_TYPE, Receive

# Small values take up many times their size in memory, and parsing blocks all other requests: for
# about 0.2 s with this many values.
MAX_VALUES = 500_000
DROPPED = ("keep_alive", "shift")  # see ParsedRequest.dropped
NEVER_FORWARDED = frozenset({"model", *DROPPED})
# Fact 12: the options that a profile may set, one of newer servers, and those of older ones.
RELOADING_OPTIONS = frozenset(RUNNER_OPTIONS) | {
    *("draft_num_predict", "numa", "use_mlock", "low_vram", "f16_kv", "logits_all"),
    *("vocab_only", "embedding_only"),
}

_ZERO = re.compile(r"0+(\.0*)?(h|m|s|ms|us|µs|ns)?")

_decoder = json.JSONDecoder()


def max_bytes() -> int:
    """Return how many bytes a body may have, as sent as well as decoded."""
    return int(settings.SWITCHER_GATEWAY_BODY_MB) * 10**6


async def read(head: RequestHead, receive: Receive) -> bytes:
    """Read the whole body and decode it. Raises GatewayError 400, 413 or 415, ClientDisconnected.

    The body is decoded in a thread, since that would otherwise block all other requests.
    """
    limit = max_bytes()
    body = await _read_raw(receive, head.headers.get("content-length", ""), limit)
    encoding = head.content_encoding
    if encoding:
        body = await in_thread(decode, body, encoding, limit)
        if len(body) > limit:
            raise too_large(limit)
    return body


async def _read_raw(receive: Receive, content_length: str, limit: int) -> bytes:
    if content_length.isdigit() and int(content_length) > limit:
        raise too_large(limit)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return b"".join(parts)


def too_large(limit: int) -> GatewayError:
    """Return the error for a body of more than `limit` bytes."""
    return GatewayError(413, "body_too_large", f"A body has at most {limit // 10**6} MB here.")


class ParsedRequest:
    """A parsed body: each member with its value and the exact text that it was written as.

    Names are compared without regard to case. Ollama, which is written in Go, takes `"Keep_Alive"`
    for `keep_alive`; such a member would otherwise bypass the policy.
    """

    def __init__(self, members: list[tuple[str, Any, str]], size: int = 0) -> None:
        self.size = size  # in bytes
        self.content_type = JSON_TYPE
        self._members = [(name.casefold(), value, text) for name, value, text in members]
        self.values: dict[str, Any] = {name: value for name, value, _ in self._members}
        options = [o for name, o, _ in self._members if name == "options" and isinstance(o, dict)]
        if len(options) > 1:  # Go merges a second object into the first one
            self.values["options"] = {name: o[name] for o in options for name in o}

    def streams(self, default: bool) -> bool:
        """Return whether the client wants the reply in parts."""
        stream = self.values.get("stream")
        return stream if isinstance(stream, bool) else default

    def wants_usage(self) -> bool:
        """Return whether the client asked for the token counts at the end of its stream."""
        options = self.values.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def asks_to_unload(self) -> bool:
        """Return whether it is Ollama's way to unload a model: no prompt and a keep-alive of zero
        (facts 1, 6)."""
        keep_alive = self.values.get("keep_alive")
        is_zero = keep_alive is not None and _ZERO.fullmatch(str(keep_alive)) is not None
        return is_zero and not (self.values.get("prompt") or self.values.get("messages"))

    def dropped(self) -> list[str]:
        """Return the names of the members that are not forwarded, as the client wrote them.

        A keep-alive would override the switch's (fact 13); `shift` and runner options would reload
        the model for everyone (fact 12).
        """
        names = [name for name in DROPPED if name in self.values]
        options = self.values.get("options")
        if isinstance(options, dict):
            names += [f"options.{name}" for name in sorted(options) if name in RELOADING_OPTIONS]
        return names

    def for_model(
        self,
        tag: str,
        runner_options: Mapping[str, Any] = MappingProxyType({}),
        add_usage: bool = False,
    ) -> bytes:
        """Return the body for the model `tag`, with the options that it is loaded with.

        All other members keep their exact text: writing parsed values again would change numbers,
        escapes and duplicate names. `add_usage` asks for the token counts at the end of the stream.
        """
        replaced: dict[str, Any] = {"model": tag}
        options = self.values.get("options")
        if runner_options or _reloads(options):
            given = options if isinstance(options, dict) else {}
            kept = {name: value for name, value in given.items() if name not in RELOADING_OPTIONS}
            replaced["options"] = kept | dict(runner_options)
        if add_usage:
            stream_options = self.values.get("stream_options")
            given = stream_options if isinstance(stream_options, dict) else {}
            replaced["stream_options"] = given | {"include_usage": True}
        unchanged = [
            text
            for name, _, text in self._members
            if name not in replaced and name not in NEVER_FORWARDED
        ]
        written = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in replaced.items()]
        return ("{" + ",".join([*written, *unchanged]) + "}").encode()


def _reloads(options: object) -> bool:
    return isinstance(options, dict) and any(name in RELOADING_OPTIONS for name in options)


def parse(body: bytes) -> ParsedRequest:
    """Parse a JSON object member by member. Raises GatewayError 400 or 413."""
    # Each value but the first follows a comma or opens a list or an object. These characters count
    # inside strings too: no prompt that a model could read has that many of them.
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > MAX_VALUES:
        text = f"A body has at most {MAX_VALUES:,} values."
        raise GatewayError(413, "body_too_large", text)
    try:
        return ParsedRequest(_members(body.decode()), len(body))
    except (ValueError, IndexError, RecursionError) as exc:
        text = 'The body is not a JSON object such as {"model": "…"}.'
        raise GatewayError(400, "invalid_json", text) from exc


def _members(text: str) -> list[tuple[str, Any, str]]:
    """Return name, value and exact text of each member. Raises ValueError, IndexError."""
    members: list[tuple[str, Any, str]] = []
    at = _expect(text, 0, "{")
    if text[at] != "}":
        while True:
            name, after = _decoder.raw_decode(text, at)
            if not isinstance(name, str):
                raise ValueError("a member's name is a string")
            value_at = _expect(text, after, ":")
            value, end = _decoder.raw_decode(text, value_at)
            members.append((name, value, text[at:end]))
            at = _skip_whitespace(text, end)
            if text[at] != ",":
                break
            at = _skip_whitespace(text, at + 1)
    if _expect(text, at, "}") != len(text):
        raise ValueError("something follows the object")
    return members


def _expect(text: str, at: int, sign: str) -> int:
    """Return the position after the character `sign`, skipping whitespace around it."""
    at = _skip_whitespace(text, at)
    if text[at] != sign:
        raise ValueError(f"no {sign} at {at}")
    return _skip_whitespace(text, at + 1)


def _skip_whitespace(text: str, at: int) -> int:
    match = WHITESPACE.match(text, at)
    return int(match.end())
