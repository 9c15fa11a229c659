"""The body of a request: bounded, parsed, and rewritten without touching what is not ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from json.decoder import WHITESPACE  # type: ignore[attr-defined]  # not in the stubs
from types import MappingProxyType
from typing import Any

from switcher.domain.specs import RUNNER_OPTIONS
from switcher.gateway.answers import GatewayError, Receive

MAX_BYTES = 20_000_000
# Values in it. Small ones take many times their bytes in memory, and nobody else is served while
# they are read: so many take some 0.2 s.
MAX_VALUES = 500_000
# See Wanted.dropped.
NEVER_PASSED_ON = frozenset({"model", "keep_alive"})
# Fact 12: those that a profile may set, one of newer servers, and those of older ones.
RELOADING = frozenset(RUNNER_OPTIONS) | {
    *("draft_num_predict", "numa", "use_mlock", "low_vram", "f16_kv", "logits_all"),
    *("vocab_only", "embedding_only"),
}
USAGE = {"include_usage": True}

_decoder = json.JSONDecoder()


class Gone(Exception):
    """The client went away."""


LEFT = "the client left"  # with which its work is cancelled; a server that ends says nothing


async def read(receive: Receive, announced: str) -> bytes:
    """The whole body. Refuses more than MAX_BYTES, from the announcement alone if it tells."""
    if announced.isdigit() and int(announced) > MAX_BYTES:
        raise _too_large()
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large() -> GatewayError:
    return GatewayError(413, "body_too_large", f"A body has at most {MAX_BYTES // 10**6} MB.")


class ParsedRequest:
    """A parsed request: each member with its value and the very text it was written in.

    Ollama, being written in Go, takes `"Keep_Alive"` for `keep_alive`: so names are compared
    without their case, as Go does it, or such a member would go past the policy.
    """

    def __init__(self, members: list[tuple[str, Any, str]], size: int = 0) -> None:
        self.size = size  # in bytes
        self._members = [(name.casefold(), value, text) for name, value, text in members]
        self.values: dict[str, Any] = {name: value for name, value, _ in self._members}
        options = [o for name, o, _ in self._members if name == "options" and isinstance(o, dict)]
        if len(options) > 1:  # Go reads a second object into the first one
            self.values["options"] = {name: o[name] for o in options for name in o}

    def streams(self, default: bool) -> bool:
        """Whether the client wants the answer in parts."""
        said = self.values.get("stream")
        return said if isinstance(said, bool) else default

    def wants_usage(self) -> bool:
        """Whether the client asked for the tokens' count at the end of its stream."""
        options = self.values.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def dropped(self) -> list[str]:
        """What is not passed on, as the client named it: a keep-alive would overwrite the one that
        the switch set (fact 13), a runner option would load the model anew for all (fact 12)."""
        names = ["keep_alive"] if "keep_alive" in self.values else []
        options = self.values.get("options")
        if isinstance(options, dict):
            names += [f"options.{name}" for name in sorted(options) if name in RELOADING]
        return names

    def for_model(
        self, tag: str, runner: Mapping[str, Any] = MappingProxyType({}), count: bool = False
    ) -> bytes:
        """The same request for another model. All other members are byte for byte the client's:
        parsing and writing them anew would change numbers, escapes and doubled names.

        `runner` are the options that the model is loaded with, where they can be said.
        With `count` the host is asked for the tokens' count at the end of the stream.
        """
        ours: dict[str, Any] = {"model": tag}
        options = self.values.get("options")
        if runner or _reloads(options):
            given = options if isinstance(options, dict) else {}
            ours["options"] = {k: v for k, v in given.items() if k not in RELOADING} | dict(runner)
        if count:
            said = self.values.get("stream_options")
            ours["stream_options"] = (said if isinstance(said, dict) else {}) | USAGE
        kept = [t for n, _, t in self._members if n not in ours and n not in NEVER_PASSED_ON]
        written = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in ours.items()]
        return ("{" + ",".join([*written, *kept]) + "}").encode()


def _reloads(options: object) -> bool:
    return isinstance(options, dict) and any(name in RELOADING for name in options)


def parse(body: bytes) -> ParsedRequest:
    """Read a JSON object member by member. Raises Refusal."""
    # Each value but the first ends another or begins a list or an object. Signs in texts count,
    # too: a text with so many is none that a model could read.
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > MAX_VALUES:
        text = f"A body has at most {MAX_VALUES:,} values."
        raise GatewayError(413, "body_too_large", text)
    try:
        return ParsedRequest(_members(body.decode()), len(body))
    except (ValueError, IndexError, RecursionError) as exc:
        text = 'The body is not a JSON object such as {"model": "…"}.'
        raise GatewayError(400, "invalid_json", text) from exc


def _members(text: str) -> list[tuple[str, Any, str]]:
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
            at = _skip(text, end)
            if text[at] != ",":
                break
            at = _skip(text, at + 1)
    if _expect(text, at, "}") != len(text):
        raise ValueError("something follows the object")
    return members


def _expect(text: str, at: int, sign: str) -> int:
    """The place after `sign` and the white space around it."""
    at = _skip(text, at)
    if text[at] != sign:
        raise ValueError(f"no {sign} at {at}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = WHITESPACE.match(text, at)
    return int(found.end())
