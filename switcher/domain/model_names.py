"""Model names, parsed as Ollama parses them. Pure: no I/O, no Django."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = ":latest"

# Ollama's own rule (types/model/name.go): host/namespace/model:tag. A host may have a port.
_VALID = re.compile(
    r"(?:(?:\w[\w.:-]{0,349}/)?\w[\w-]{0,79}/)?\w[\w.-]{0,79}:\w[\w.-]{0,79}", re.ASCII
)


@dataclass(frozen=True, slots=True)
class ModelName:
    """The name of a model: `host/namespace/model:tag`, of which only the model is required.

    Names are equal if Ollama treats them as the same, such as `Mid-A`, `library/mid-a` and
    `registry.ollama.ai/library/mid-a:latest` (fact 20). The empty name stands for "none" and is
    falsy.
    """

    key: str = field(repr=False)  # the full name in lower case, by which names are compared
    full: str = field(compare=False)  # as Ollama lists it: with its tag, without the defaults

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Parse a name. Invalid text never equals a valid name; see `is_valid`."""
        *path, last = text.split("/")
        if not last:
            return cls(text.lower(), text)
        if len(path) == 2 and path[0].lower() == DEFAULT_HOST:
            del path[0]
        if len(path) == 1 and path[0].lower() == DEFAULT_NAMESPACE:
            del path[0]
        if ":" not in last:
            last += DEFAULT_TAG
        full = "/".join([*path, last])
        return cls(full.lower(), full)

    @property
    def short(self) -> str:
        """Return the name as people write it: without `:latest`."""
        return self.full[: -len(DEFAULT_TAG)] if self.key.endswith(DEFAULT_TAG) else self.full

    @property
    def is_valid(self) -> bool:
        """Return whether Ollama accepts the name."""
        return _VALID.fullmatch(self.full) is not None

    def __bool__(self) -> bool:
        return bool(self.full)

    def __str__(self) -> str:
        return self.short


NO_NAME = ModelName.parse("")
