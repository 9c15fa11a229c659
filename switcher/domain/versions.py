"""Versions of Ollama, such as `0.31.2` or `0.25.0-rc0`, and what each of them lacks."""

from __future__ import annotations

import re
from dataclasses import dataclass

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that servers have since a version; `path` is its address, if it has one of its own.
    `without` says what follows where it is missing."""

    since: Version
    name: str
    without: str
    path: str = ""

    @property
    def since_text(self) -> str:
        return ".".join(map(str, self.since))


# docs/ollama-versions.md has the same table; a test compares them.
FEATURES = (
    Feature(
        (0, 6, 4),
        "capabilities in /api/show",
        "embedding models are recognised by their pooling_type instead",
    ),
    Feature((0, 9, 0), "think", "models think, or do not, as they please"),
    Feature(
        (0, 10, 0),
        "context_length in /api/ps",
        "cut prompts and reloads with another context are not noticed, except by num_ctx",
    ),
    Feature((0, 12, 0), "cloud models", "none are listed"),
    Feature(
        (0, 13, 3),
        "/v1/responses",
        "the gateway answers 404 and says so",
        "/v1/responses",
    ),
    Feature(
        (0, 14, 3),
        "/v1/images/generations",
        "the gateway answers 404 and says so",
        "/v1/images/generations",
    ),
    Feature(
        (0, 20, 0),
        "/v1/audio/transcriptions",
        "the gateway answers 404 and says so",
        "/v1/audio/transcriptions",
    ),
    Feature(
        (0, 30, 0),
        "capabilities in /api/tags",
        "each switch asks /api/show for them; lists do not mark embedding models",
    ),
)


def numbers_of(version: str) -> Version:
    """Return the numbers of a version. A build from source, 0.0.0, has none: it may be any."""
    found = re.match(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", version)
    numbers = tuple(int(n or 0) for n in found.groups()) if found else ()
    return numbers if any(numbers) else ()


def missing_in(version: str) -> tuple[Feature, ...]:
    """Return what a server of this version lacks; nothing if the version is unknown."""
    numbers = numbers_of(version)
    return tuple(f for f in FEATURES if numbers and numbers < f.since)


def since_of(path: str) -> str:
    """Return the version in which an address came; empty if that is not known."""
    return next((f.since_text for f in FEATURES if f.path == path), "")
