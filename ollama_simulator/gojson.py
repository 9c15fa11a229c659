"""Parses request bodies as the server does, with the same error messages."""

from __future__ import annotations

import json
import math
from json import JSONDecodeError
from typing import Any, NoReturn

Body = dict[str, Any]
Fields = dict[str, tuple[type | tuple[type, ...], str]]
# Fields whose type is checked first, with Go's name for the type.
FIELDS: Fields = {
    "model": (str, "string"),
    "prompt": (str, "string"),
    "source": (str, "string"),
    "destination": (str, "string"),
    "from": (str, "string"),
    "stream": (bool, "bool"),
    "shift": (bool, "bool"),
    "options": (dict, "map[string]interface {}"),
    "parameters": (dict, "map[string]interface {}"),
    "messages": (list, "[]api.Message"),
    "tools": (list, "api.Tools"),
    "dimensions": (int, "int"),
}
V1_FIELDS: Fields = FIELDS | {
    "messages": (list, "[]openai.Message"),
    "max_tokens": (int, "int"),
    "max_output_tokens": (int, "int"),
    "seed": (int, "int"),
    "temperature": ((int, float), "float64"),
    "top_p": ((int, float), "float64"),
    "stream_options": (dict, "openai.StreamOptions"),
    "response_format": (dict, "openai.ResponseFormat"),
}
FREE = ("options", "keep_alive")  # values of any type; numbers become float64
_LITERALS = {"n": "null", "t": "true", "f": "false"}
_LONGEST_INT = 18  # this many digits always fit


class BadBody(ValueError):
    """An unreadable body; its text is that of the server's 400."""


class _TooLarge(float):
    """A number too large for float64; `text` is its source text."""

    text = ""


def parse(raw: str) -> Any:
    """Parse the JSON value at the start of the text. Raises `BadBody` with the server's message."""
    text = raw.lstrip(" \t\r\n")
    decoder = json.JSONDecoder(
        parse_constant=_no_constant, parse_float=_float, parse_int=_int, strict=True
    )
    try:
        value, _ = decoder.raw_decode(text)
    except JSONDecodeError as exc:
        raise BadBody(_words(exc)) from exc
    except RecursionError as exc:
        raise BadBody(f"invalid character {_quoted(text[0])} exceeded max depth") from exc
    return _whole(value)


def read_json(raw: str, struct: str) -> Body:
    """Return the body as an object with lower-case names, as names ignore case. `struct` is the Go
    type that the server's errors mention.
    """
    if not raw.strip():
        raise BadBody("missing request body")
    value = parse(raw)
    if value is None:
        return {}
    if not isinstance(value, dict):
        kind = _go_kind(value)
        raise BadBody(f"json: cannot unmarshal {kind} into Go value of type {struct}")
    body = {name.lower(): part for name, part in value.items()}
    _check_types(body, struct)
    return body


def _check_types(body: Body, struct: str) -> None:
    package, _, short = struct.partition(".")
    for name, (wanted, go_type) in (V1_FIELDS if package == "openai" else FIELDS).items():
        given = body.get(name)
        if given is None or (isinstance(given, wanted) and not _odd_bool(given, wanted)):
            continue
        unmarshal_error(given, f"{short}.{name}", go_type)
    for name in FREE:
        if found := _too_large(body.get(name)):
            unmarshal_error(found, f"{short}.{name}", "float64")


def _odd_bool(given: object, wanted: object) -> bool:
    """Return whether exactly one of them is a bool: in Python a bool is an int, in Go it is not."""
    return isinstance(given, bool) and wanted is not bool


def unmarshal_error(given: object, where: str, go_type: str) -> NoReturn:
    """Raise Go's error for a value of the wrong type."""
    kind = _go_kind(given)
    if isinstance(given, float) and go_type in ("int", "float64"):
        kind = f"number {given.text if isinstance(given, _TooLarge) else given}"
    raise BadBody(f"json: cannot unmarshal {kind} into Go struct field {where} of type {go_type}")


def _too_large(value: object) -> _TooLarge | None:
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return next((found for part in parts if (found := _too_large(part))), None)
    return value if isinstance(value, _TooLarge) else None


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        value = _TooLarge(value)
        value.text = text
    return value


def _int(text: str) -> int | float:
    return int(text) if len(text) <= _LONGEST_INT else _float(text)


def _whole(value: Any) -> Any:
    """Replace lone surrogates and invalid UTF-8 with U+FFFD, as Go does."""
    if isinstance(value, dict):
        return {_whole(name): _whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_whole(part) for part in value]
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _no_constant(name: str) -> NoReturn:
    if name.startswith("-"):
        raise BadBody(f"invalid character '{name[1]}' in numeric literal")
    raise BadBody(f"invalid character '{name[0]}' looking for beginning of value")


def _go_kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _quoted(bad: str) -> str:
    """Return the first byte of a character as Go's errors quote it."""
    byte = bad.encode("utf-8", "surrogateescape")[0]
    return {"'": "'\\''", "\\": "'\\\\'"}.get(chr(byte), f"'{_shown(byte)}'")


def _shown(byte: int) -> str:
    short = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}
    if byte in short:
        return short[byte]
    return chr(byte) if chr(byte).isprintable() else _escaped(byte)


def _escaped(byte: int) -> str:
    return f"\\x{byte:02x}" if byte < 0x80 else f"\\u{byte:04x}"


def _words(exc: JSONDecodeError) -> str:
    text, at = exc.doc, exc.pos
    if at >= len(text) or exc.msg.startswith("Unterminated"):
        return "unexpected EOF"
    if exc.msg.startswith("Invalid \\"):
        return _bad_escape(text, text.index("\\", max(0, at - 1)))
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
    return f"invalid character {_quoted(bad)} {place}"


def _bad_escape(text: str, at: int) -> str:
    """Return the error for an invalid escape; `at` is the position of the backslash."""
    rest, place = text[at + 1 :], "in string escape code"
    if rest[:1] == "u":
        place = "in \\u hexadecimal character escape"
        rest = rest[1:5].lstrip("0123456789abcdefABCDEF")
    return f"invalid character {_quoted(rest[0])} {place}" if rest else "unexpected EOF"


def _literal(text: str, word: str) -> str:
    for n, letter in enumerate(word):
        if n >= len(text):
            break
        if text[n] != letter:
            return f"invalid character {_quoted(text[n])} in literal {word} (expecting {letter!r})"
    return "unexpected EOF"
