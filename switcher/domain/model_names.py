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
# Where a model runs, as a request may write it (internal/modelref/modelref.go).
_PLACE = re.compile(r":(?:local|cloud|[^/:]*-cloud)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelName:
    """The name of a model: `host/namespace/model:tag`, of which only the model is required.

    Names are equal if Ollama treats them as the same, such as `Mid-A`, `library/mid-a` and
    `https://registry.ollama.ai/library/mid-a:latest` (fact 20). The empty name stands for "none"
    and is falsy.
    """

    key: str = field(repr=False)  # the full name in lower case, by which names are compared
    full: str = field(compare=False)  # as Ollama lists it: with its tag, without the defaults

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Parse a name as a server lists it. Invalid text never equals a valid name; see
        `is_valid`."""
        *path, last = text.split("/")
        if not last:
            return cls(text.lower(), text)
        # A scheme tells how to pull a model, not which one it is.
        _, scheme, host = "/".join(path[:-1]).partition("://")
        if scheme:
            path = [host, path[-1]]
        if len(path) == 2 and path[0].lower() == DEFAULT_HOST:
            del path[0]
        if len(path) == 1 and path[0].lower() == DEFAULT_NAMESPACE:
            del path[0]
        if ":" not in last:
            last += DEFAULT_TAG
        full = "/".join([*path, last])
        return cls(full.lower(), full)

    @classmethod
    def of_request(cls, text: str) -> ModelName:
        """Parse a name in the way in which the server parses a request's: it ignores blanks around
        it, and takes a last `:local` or `:cloud` for the place where the model runs (fact 20)."""
        text = text.strip()
        name, _, place = text.rpartition(":")
        if place.lower() not in ("local", "cloud") or _PLACE.search(name):
            return cls.parse(text)
        if place.lower() == "local":
            return cls.parse(name)
        # A cloud model is listed with the place as part of its tag.
        is_tagged = name.rfind(":") > name.rfind("/")
        return cls.parse(f"{name}-cloud" if is_tagged else text)

    @property
    def short(self) -> str:
        """Return the name as people write it: without `:latest`."""
        return self.full[: -len(DEFAULT_TAG)] if self.key.endswith(DEFAULT_TAG) else self.full

    @property
    def is_valid(self) -> bool:
        """Return whether Ollama accepts the name."""
        return _VALID.fullmatch(self.full) is not None

    @property
    def is_cloud(self) -> bool:
        """Return whether requests for this name leave the machine, whatever is on its disk (fact
        20)."""
        tag = self.key.rpartition(":")[2]
        return tag == "cloud" or tag.endswith("-cloud")

    def __bool__(self) -> bool:
        return bool(self.full)

    def __str__(self) -> str:
        return self.short


NO_NAME = ModelName.parse("")


def full_name(text: str) -> str:
    """Return the name as Ollama lists it, with its tag; empty for none."""
    return ModelName.parse(text).full
