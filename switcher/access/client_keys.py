"""Finds a client's key in a request: clients differ in where they send it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

KEY_PREFIX = "sb-"


def key_in(headers: Mapping[str, str], parameter: str = "") -> str:
    """Return the client's key; empty if it sends none of Switchboard's.

    Clients send a placeholder (`Bearer ollama`) even to servers that need no key. Names in
    `headers` are in lower case. `parameter` is the key in the address, where that is allowed.
    """
    found = (*_in_headers(headers), parameter.strip())
    return next((text for text in found if text.startswith(KEY_PREFIX)), "")


def _in_headers(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield everything that could be a key, in order of precedence."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        yield from _basic(value)
    else:
        yield value.strip() or scheme  # some clients leave the scheme out
    yield headers.get("x-api-key", "").strip()
    yield headers.get("api-key", "").strip()


def _basic(value: str) -> Iterator[str]:
    """Yield the password and the user's name of basic authentication (RFC 7617)."""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:
        return
    yield password
    yield name
