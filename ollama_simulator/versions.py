"""What older servers lack, so that the simulator can act as one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Version = tuple[int, ...]
NEWEST: Version = (999,)
# The version in which an address came, or a member of an answer.
PATHS = {"/v1/responses": (0, 13, 3)}
SHOW = {"capabilities": (0, 6, 4), "tensors": (0, 6, 1)}
TAGS = {"capabilities": (0, 30), "remote_model": (0, 12), "remote_host": (0, 12)}
DETAILS = {"context_length": (0, 30), "embedding_length": (0, 30)}
PS = {"context_length": (0, 10)}
THINK, REASONING_EFFORT = (0, 9), (0, 11, 5)
INCLUDE_USAGE = (0, 5, 2)
SHIFT_RELOADS = (0, 30)
CUTS_TO_HALF = (0, 31)


def read_version(text: str) -> Version:
    """Parse a version such as `0.12.6`. Raises ValueError."""
    if not re.fullmatch(r"\d+\.\d+\.\d+(-\w+)?", text):
        raise ValueError(f"{text!r} is not a version; write for example 0.12.6")
    return tuple(int(n) for n in text.partition("-")[0].split("."))


def known_to(version: Version, row: dict[str, Any], since: Mapping[str, Version]) -> dict[str, Any]:
    """Return a row without the members that came after this version."""
    return {name: value for name, value in row.items() if since.get(name, ()) <= version}
