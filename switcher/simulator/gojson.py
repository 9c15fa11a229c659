"""A request's body as the server reads it, with its own words for what it cannot read."""

from __future__ import annotations

import json
from json import JSONDecodeError
from typing import Any, NoReturn

Body = dict[str, Any]
# The fields whose type is checked before anything else is looked at: Go's name for the type.
FIELDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "model": (str, "string"),
    "prompt": (str, "string"),
    "source": (str, "string"),
    "destination": (str, "string"),
    "stream": (bool, "bool"),
    "options": (dict, "map[string]interface {}"),
    "messages": (list, "[]api.Message"),
    "tools": (list, "api.Tools"),
    "max_tokens": (int, "int"),
    "max_output_tokens": (int, "int"),
}
_LITERALS = {"n": "null", "t": "true", "f": "false"}


class BadBody(ValueError):
    """The text of the server's 400."""


def read_json(raw: str, struct: str) -> Body:
    """The body as an object. `struct` is what the server reads it into, as it says in errors."""
    if not raw.strip():
        raise BadBody("missing request body")
    try:
        value, _ = json.JSONDecoder(parse_constant=_no_constant).raw_decode(raw.lstrip())
    except JSONDecodeError as exc:
        raise BadBody(_words(exc)) from exc
    if value is None:
        return {}
    if not isinstance(value, dict):
        kind = _go_kind(value)
        raise BadBody(f"json: cannot unmarshal {kind} into Go value of type api.{struct}")
    for name, (wanted, go_type) in FIELDS.items():
        given = value.get(name)
        if given is not None and not isinstance(given, wanted):
            where = f"Go struct field {struct}.{name} of type {go_type}"
            raise BadBody(f"json: cannot unmarshal {_go_kind(given)} into {where}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise BadBody(f"invalid character '{name[0]}' looking for beginning of value")


def _go_kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _words(exc: JSONDecodeError) -> str:
    text, at = exc.doc, exc.pos
    if at >= len(text) or exc.msg.startswith("Unterminated"):
        return "unexpected EOF"
    bad = text[at]
    if exc.msg == "Expecting value" and bad in _LITERALS:
        return _literal(text[at:], _LITERALS[bad])
    place = {
        "Expecting value": "looking for beginning of value",
        "Expecting ':' delimiter": "after object key",
        "Expecting ',' delimiter": "after object key:value pair",
    }.get(exc.msg, "looking for beginning of object key string")
    if exc.msg.startswith("Invalid control"):
        place = "in string literal"
    return f"invalid character {bad!r} {place}"


def _literal(text: str, word: str) -> str:
    for n, letter in enumerate(word):
        if n >= len(text):
            break
        if text[n] != letter:
            return f"invalid character {text[n]!r} in literal {word} (expecting {letter!r})"
    return "unexpected EOF"
