"""The models on the host's disk: names that resolve to manifests and files. No I/O."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

# The parts of HOST/NAMESPACE/MODEL:TAG that the server accepts.
_PART = {
    "host": re.compile(r"[A-Za-z0-9_][\w.:-]{0,349}", re.ASCII),
    "namespace": re.compile(r"[A-Za-z0-9_][\w-]{0,79}", re.ASCII),
    "model": re.compile(r"[A-Za-z0-9_][\w.-]{0,79}", re.ASCII),
}
_DEFAULT_HOST, _DEFAULT_NAMESPACE, _DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
_MISSING = "!MISSING!"  # for a part that its separator promises, and which is no valid one
_PLACE = re.compile(r":(?:local|cloud|[^/:]*-cloud)$", re.IGNORECASE)
DEFAULT_CTX = 4096
TRAINED_CTX = 131_072


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest, which a model name resolves to.

    `digest` is the manifest's, as in `/api/ps` and `/api/tags`; `blob` is the file's, which
    identifies runners (fact 21); `size` is the file's, in bytes; `num_ctx` is the model's own
    context length; `speaks_as` is the name that its replies begin with. A cloud model has a
    `remote_host` (fact 28).
    """

    digest: str
    blob: str
    size: int
    embeds: bool = False
    num_ctx: int = DEFAULT_CTX
    speaks_as: str = ""
    remote_host: str = ""
    kind: str = ""  # image, audio or mlx

    @property
    def capabilities(self) -> list[str]:
        if self.kind in ("image", "audio"):
            return [self.kind]
        return ["embedding"] if self.embeds else ["completion", "tools"]


def _parts(name: str) -> tuple[str, str, str, str]:
    tag = ""
    if name.rfind(":") > name.rfind("/"):
        name, _, tag = name.rpartition(":")
        tag = tag or _MISSING
    *front, model = name.split("/")
    namespace = (front[-1] or _MISSING) if front else _DEFAULT_NAMESPACE
    host = "/".join(front[:-1]) if len(front) > 1 else _DEFAULT_HOST
    host = host.partition("://")[2] or host  # a scheme is not part of what is compared
    return host, namespace, model, tag or _DEFAULT_TAG


def local_name(name: str) -> str:
    """Return the name without what only says that the model runs here: blanks and `:local`. A name
    that gives two places is refused, which `valid_name` does for it (fact 20).
    """
    name = name.strip()
    base, _, place = name.rpartition(":")
    return base if place.lower() == "local" and not _PLACE.search(base) else name


def full_name(name: str) -> str:
    """Return the name with its tag, without the default host and namespace (fact 20)."""
    host, namespace, model, tag = _parts(name)
    short = f"{model}:{tag}"
    if host.lower() != _DEFAULT_HOST:
        return f"{host}/{namespace}/{short}"
    return short if namespace.lower() == _DEFAULT_NAMESPACE else f"{namespace}/{short}"


def valid_name(name: str) -> bool:
    """Return whether the server accepts this as a name."""
    host, namespace, model, tag = _parts(name)
    checks = (("host", host), ("namespace", namespace), ("model", model), ("model", tag))
    return all(_PART[kind].fullmatch(part) for kind, part in checks)


def make_manifest(
    seed: str, size: int, embeds: bool = False, num_ctx: int = 0, digest: str = ""
) -> Manifest:
    """Return the manifest of a made-up model; the same seed and size give the same digest."""
    blob = hashlib.sha256(f"blob {seed} {size}".encode()).hexdigest()
    digest = digest or hashlib.sha256(f"manifest {blob} {num_ctx}".encode()).hexdigest()
    return Manifest(digest, blob, size, embeds, num_ctx or DEFAULT_CTX, seed)


class Catalog:
    """A map from names to manifests. Changes here do not affect loaded models (facts 23, 24)."""

    def __init__(self) -> None:
        self.names: dict[str, Manifest] = {}
        self.blobs: set[str] = set()  # digests of uploaded files
        self.changed_at: dict[str, float] = {}
        self._torn_until: dict[str, float] = {}
        self._versions = 1

    def known(self, name: str) -> str:
        """Return the name as spelled on disk; lookup ignores case."""
        full = full_name(name)
        return next((n for n in self.names if n.lower() == full.lower()), full)

    def find(self, name: str) -> Manifest | None:
        return self.names.get(self.known(name))

    def torn(self, name: str, now: float) -> bool:
        """Return whether the name's file is being rewritten and is empty at this moment (fact
        26)."""
        return now < self._torn_until.get(self.known(name), 0.0)

    def add(self, name: str, manifest: Manifest, now: float, gap_s: float = 0.0) -> None:
        """Point the name at the manifest. For `gap_s` seconds it is empty (fact 26)."""
        full = self.known(name)
        if gap_s and full in self.names:
            self._torn_until[full] = now + gap_s
        self.names[full] = manifest
        self.changed_at[full] = now

    def copy(self, source: str, destination: str, now: float, gap_s: float = 0.0) -> bool:
        """Copy a model, overwriting the destination; the digest stays the same (fact 21)."""
        manifest = self.find(source)
        if manifest is None:
            return False
        self.add(destination, manifest, now, gap_s)
        return True

    def delete(self, name: str) -> bool:
        """Delete the name; a loaded model stays loaded (fact 24)."""
        return self.names.pop(self.known(name), None) is not None

    def repull(self, name: str, now: float) -> bool:
        """Give the name new content of the same size (fact 23)."""
        old = self.find(name)
        if old is None:
            return False
        self._versions += 1
        seed = f"{old.speaks_as.partition('@')[0]}@{self._versions}"
        self.add(name, make_manifest(seed, old.size, old.embeds, old.num_ctx), now)
        return True

    def listed(self) -> list[tuple[str, Manifest]]:
        """Return the models in the order of `/api/tags`: most recently changed first."""
        return sorted(self.names.items(), key=lambda row: self.changed_at[row[0]], reverse=True)
