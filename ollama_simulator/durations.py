"""Keep-alive values as the server accepts them: Go durations and numbers of seconds (fact 7)."""

from __future__ import annotations

import re

# Fact 7: every negative value means the longest possible duration, about 292 years.
FOREVER_S = 9_223_372_036.854_775_807
_MAX_NS = 2**63 - 1
_NUMBER = re.compile(r"(\d*)(?:\.(\d*))?")
_UNIT = re.compile(r"[^\d.]*")
_UNIT_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


class BadDuration(ValueError):
    """An unusable keep-alive; its text is that of the server's 400."""


def keep_alive_s(value: object) -> float:
    """Return a keep-alive in seconds; `FOREVER_S` for any negative value.

    Raises `BadDuration` with the server's message for values it rejects, such as `"-1"` and `"30"`.
    """
    if isinstance(value, bool):
        raise BadDuration("Unsupported type: 'bool'")
    if isinstance(value, int | float):
        return FOREVER_S if value < 0 else min(float(value), FOREVER_S)
    if isinstance(value, str):
        nanoseconds = parse_go_duration(value)
        return FOREVER_S if nanoseconds < 0 else nanoseconds / 10**9
    kind = "map[string]interface {}" if isinstance(value, dict) else "[]interface {}"
    raise BadDuration(f"Unsupported type: '{kind}'")


def parse_go_duration(text: str) -> int:
    """Parse `1h30m`, `1.5s` or `-1s` to nanoseconds, as Go's `time.ParseDuration` does."""
    quoted = f'duration "{text}"'
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest:
        raise BadDuration(f"time: invalid {quoted}")
    total = 0
    while rest:
        number = _NUMBER.match(rest)
        whole, part = (number[1], number[2] or "") if number else ("", "")
        if not whole and not part:
            raise BadDuration(f"time: invalid {quoted}")
        assert number is not None
        unit = _UNIT.match(rest, number.end())
        word = unit[0] if unit else ""
        if not word:
            raise BadDuration(f"time: missing unit in {quoted}")
        if word not in _UNIT_NS:
            raise BadDuration(f'time: unknown unit "{word}" in {quoted}')
        total += int(whole or "0") * _UNIT_NS[word]
        total += int(part or "0") * _UNIT_NS[word] // 10 ** len(part)
        if total > _MAX_NS:
            raise BadDuration(f"time: invalid {quoted}")
        rest = rest[number.end() + len(word) :]
    return -total if text.startswith("-") else total
