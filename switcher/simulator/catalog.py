"""The models on the host's disk: names that resolve to files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(?:/[\w.-]+){0,3}(?::[\w.-]+)?$", re.ASCII)
DEFAULT_CTX = 4096


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one name resolves to. `blob` is the file: runners are keyed by it (fact 21)."""

    digest: str
    blob: str
    size: int
    embeds: bool = False
    num_ctx: int = DEFAULT_CTX
    fail: str = ""  # a damaged file: the text of the 500


def full_name(name: str) -> str:
    """Fact 20: `mid-a` means `mid-a:latest`."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def valid_name(name: str) -> bool:
    return bool(_NAME.match(name))


def make_manifest(seed: str, size: int, embeds: bool = False, num_ctx: int = 0) -> Manifest:
    """A model with made-up content; the same seed gives the same digest."""
    blob = hashlib.sha256(f"blob {seed} {size}".encode()).hexdigest()
    digest = hashlib.sha256(f"manifest {blob}".encode()).hexdigest()
    return Manifest(digest, blob, size, embeds, num_ctx or DEFAULT_CTX)


class Catalog:
    """Names to manifests. Every change keeps loaded runners as they are (facts 23, 24)."""

    def __init__(self) -> None:
        self.names: dict[str, Manifest] = {}
        self.changed_at: dict[str, float] = {}

    def add(self, name: str, manifest: Manifest, now: float) -> None:
        self.names[full_name(name)] = manifest
        self.changed_at[full_name(name)] = now

    def find(self, name: str) -> Manifest | None:
        return self.names.get(full_name(name))

    def copy(self, source: str, destination: str, now: float) -> bool:
        """A copy has its source's digest and overwrites its destination (fact 21)."""
        manifest = self.find(source)
        if manifest is None:
            return False
        self.add(destination, manifest, now)
        return True

    def delete(self, name: str) -> bool:
        return self.names.pop(full_name(name), None) is not None

    def repull(self, name: str, now: float) -> bool:
        """The name means new content of the same size from now on (fact 23)."""
        old = self.find(name)
        if old is None:
            return False
        fresh = make_manifest(f"{name} {old.digest}", old.size, old.embeds, old.num_ctx)
        self.add(name, replace(fresh, fail=old.fail), now)
        return True
