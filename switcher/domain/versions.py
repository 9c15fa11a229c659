"""Versions of Ollama, such as `0.31.2` or `0.25.0-rc0`."""

from __future__ import annotations

import re


def numbers_of(version: str) -> tuple[int, ...]:
    """Return the numbers of a version. A build from source, `0.0.0`, has none: it may be any."""
    found = re.match(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", version)
    numbers = tuple(int(n or 0) for n in found.groups()) if found else ()
    return numbers if any(numbers) else ()
