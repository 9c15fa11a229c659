"""Everything that the plan of a switch depends on. Pure: no I/O, no Django."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from switcher.domain.memory import Loaded, ModelFacts, Size
from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed, Resident, is_cloud
from switcher.domain.specs import Spec
from switcher.domain.states import Strategy


@dataclass(frozen=True, slots=True)
class Expected:
    """The seconds that a phase is expected to take, and where that number comes from."""

    seconds: float
    source: str


@dataclass(frozen=True, slots=True)
class Item:
    """One model in a plan. `role` is active, pinned, former (loaded by a switch, and no longer
    wanted), foreign or new. `bytes` is what it takes of the VRAM, or of the memory on a host
    without a GPU; `total` is all that it takes, on the GPU and beside it."""

    name: ModelName
    digest: str
    bytes: int
    role: str
    why: str = ""
    total: int = 0

    @property
    def short(self) -> str:
        return self.name.short

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"name": self.name.full}


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Everything that a plan depends on."""

    host: str
    vram_bytes: int | None
    resident: tuple[Resident, ...]
    active_digest: str
    active_spec: Spec | None
    pinned: frozenset[str]  # digests
    target: Installed | None
    spec: Spec
    target_size: Size
    asked: Strategy
    host_strategy: Strategy
    history: Mapping[Strategy, Mapping[str, Expected]]  # seconds by phase
    missing: tuple[Item, ...] = ()  # installed pinned models that are not loaded
    ours: frozenset[str] = frozenset()  # digests that switches loaded here
    usual_gpu_percent: int | None = None  # of the target, when it was last activated here
    published: ModelName = NO_NAME  # the name that should mean the active model
    cannot_publish: str = ""  # why that name cannot be pointed at the target
    allows_cloud: bool = False  # whether prompts may leave the machine
    context: int = 0  # tokens that the target is expected to get; 0 if unknown
    facts: ModelFacts | None = None  # of the target
    seen: tuple[Loaded, ...] = ()  # loads of the target here
    max_loaded: int | None = None  # models that the server keeps loaded at once
    parallel_requests: int = 0  # that the server is set to; 0 if unknown
    same_file: frozenset[str] = frozenset()  # digests of residents that have the target's file

    @property
    def is_cloud(self) -> bool:
        """Return whether the target is a cloud model, which is never loaded here (fact 28)."""
        return is_cloud(self.spec.name, self.target)
