"""The observed state of a host: plain values read from `/api/ps` and `/api/tags`.

Nothing here is about the desired state. Sizes are bytes; times are aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from switcher.domain.model_names import ModelName

FOREVER_YEAR = 2200  # fact 7: "forever" is reported as a date some 290 years ahead


@dataclass(frozen=True, slots=True)
class Resident:
    """One row of `/api/ps`. Identified by digest, never by name (facts 21, 23)."""

    name: ModelName
    digest: str
    size: int
    size_vram: int
    context_length: int
    expires_at: datetime | None

    @property
    def bytes(self) -> int:
        """Return the bytes it takes up: VRAM, or memory on a host without a GPU (fact 18)."""
        return self.size_vram or self.size

    @property
    def gpu_percent(self) -> int:
        """The share of the model that is in VRAM, 0 to 100 (fact 18)."""
        return min(100, round(100 * self.size_vram / self.size)) if self.size else 0

    @property
    def stays(self) -> bool:
        """Return whether it was loaded to stay forever (fact 7)."""
        return self.expires_at is not None and self.expires_at.year >= FOREVER_YEAR

    def to_json(self) -> dict[str, Any]:
        expires_at = self.expires_at.isoformat() if self.expires_at else None
        return asdict(self) | {"name": self.name.full, "expires_at": expires_at}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Resident:
        expires = row.get("expires_at")
        return cls(
            name=ModelName.parse(row["name"]),
            digest=row["digest"],
            size=row["size"],
            size_vram=row["size_vram"],
            context_length=row["context_length"],
            expires_at=datetime.fromisoformat(expires) if expires else None,
        )


@dataclass(frozen=True, slots=True)
class Installed:
    """One row of `/api/tags`: a model on the host's disk. `size` is the size of its files.

    A cloud model has a `remote_host`, to which the server sends its prompts.
    """

    name: ModelName
    digest: str
    size: int
    capabilities: tuple[str, ...] = ()
    remote_host: str = ""
    on_mlx: bool = False
    most_context: int = 0  # tokens that it was trained for; 0 if the server does not list it

    @property
    def is_cloud(self) -> bool:
        return is_cloud(self.name, self)

    @property
    def embeds_only(self) -> bool:
        """Return whether it is an embedding model: these refuse `/api/generate`, even with an empty
        prompt (fact 16)."""
        return "embedding" in self.capabilities and "completion" not in self.capabilities

    @property
    def answers(self) -> bool:
        """Return whether it answers prompts or embeds, so that a switch can verify it. Older
        servers do not tell, and then it is taken to."""
        return not self.capabilities or bool({"completion", "embedding"} & {*self.capabilities})

    @property
    def kind(self) -> str:
        """Return what it is, if it is no ordinary language model: cloud, embedding, image, audio
        or MLX."""
        if self.is_cloud:
            return "cloud"
        if self.embeds_only:
            return "embedding"
        other = [c for c in ("image", "audio") if c in self.capabilities and not self.answers]
        return other[0] if other else "MLX" if self.on_mlx else ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"name": self.name.full, "capabilities": list(self.capabilities)}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Installed:
        name, capabilities = ModelName.parse(row["name"]), tuple(row.get("capabilities", ()))
        return cls(**{**row, "name": name, "capabilities": capabilities})


def is_cloud(name: ModelName, row: Installed | None) -> bool:
    """Return whether prompts to the model `name` leave the machine: by that name, whatever is on
    the disk (fact 20), or by its `row` in the host's list (fact 28)."""
    return name.is_cloud or (row is not None and bool(row.remote_host))


# A model's digest and a time exactly as the server wrote it, with nanoseconds.
Mark = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of one reading of a host: `resident` and `installed`, or an `error`."""

    at: datetime
    resident: tuple[Resident, ...] = ()
    installed: tuple[Installed, ...] = ()
    version: str = ""
    latency_ms: int = 0
    error: str = ""
    # The server has closed the connection that was kept open since the last reading.
    reconnected: bool = False
    # How far the server's clock is ahead of ours; 0 if it does not tell.
    clock_ahead_s: float = 0.0
    # By what one server is recognised at two addresses: when its installed models were changed, and
    # when its loaded ones expire.
    catalog: frozenset[Mark] = frozenset()
    loads: frozenset[Mark] = frozenset()

    @property
    def answered(self) -> bool:
        return not self.error

    def same_facts(self, other: Observation) -> bool:
        """Return whether the two differ only in the time of the reading. Expiries are compared by
        the second."""
        return (self.error, self.version, self.installed) == (
            other.error,
            other.version,
            other.installed,
        ) and [_without_fraction(r) for r in self.resident] == [
            _without_fraction(r) for r in other.resident
        ]


def _without_fraction(r: Resident) -> tuple[object, ...]:
    expires = r.expires_at.replace(microsecond=0) if r.expires_at else None
    return (r.name, r.digest, r.size, r.size_vram, r.context_length, expires)


def find_digest(resident: Iterable[Resident], digest: str) -> Resident | None:
    """Return the resident model with this digest, if there is one."""
    return next((r for r in resident if digest and r.digest == digest), None)


def find_installed(installed: Iterable[Installed], name: ModelName) -> Installed | None:
    """Return the installed model of this name, if there is one."""
    return next((i for i in installed if i.name == name), None)


def total_vram(resident: Iterable[Resident]) -> int:
    """Return the bytes of VRAM that these models take, or of memory on a host without a GPU."""
    rows = list(resident)
    in_vram = sum(r.size_vram for r in rows)
    return in_vram or sum(r.size for r in rows)
