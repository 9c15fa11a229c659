"""Keep-alive values as the server takes them: Go durations and numbers of seconds (fact 7)."""

from __future__ import annotations

import math
import re

_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_WHOLE = re.compile(r"^[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+$")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class BadDuration(ValueError):
    """The text of the server's 400."""


def keep_alive_s(value: object) -> float:
    """Seconds; infinity for any negative value. Raises BadDuration with the server's words."""
    if isinstance(value, bool):
        raise BadDuration("Unsupported type: 'bool'")
    if isinstance(value, int | float):
        return math.inf if value < 0 else float(value)
    if isinstance(value, str):
        return _parse(value)
    kind = "map[string]interface {}" if isinstance(value, dict) else "[]interface {}"
    raise BadDuration(f"Unsupported type: '{kind}'")


def _parse(text: str) -> float:
    if text == "0":
        return 0.0
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", text):
        raise BadDuration(f'time: missing unit in duration "{text}"')
    if not _WHOLE.match(text):
        raise BadDuration(f'time: invalid duration "{text}"')
    if text.startswith("-"):
        return math.inf
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))
