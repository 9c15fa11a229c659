"""What a switch asks of the outside world, as values.

The steps of a switch are a generator that yields effects and is sent their results; the driver
performs them. The same steps therefore run against a real server, or against a model of one with
simulated time and a crash at any point.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from switcher.domain.model_names import ModelName
from switcher.domain.specs import Spec, WarmUp


@dataclass(frozen=True, slots=True)
class ListResident:
    """Read `/api/ps`. Result: tuple[Resident, …].

    A reading that decides whether something is done is always a fresh one (rule 6).
    """


@dataclass(frozen=True, slots=True)
class ListInstalled:
    """Read `/api/tags`. Result: tuple[Installed, …]."""


@dataclass(frozen=True, slots=True)
class ShowModel:
    """Read a model's capabilities (`/api/show`). Result: tuple[str, …]."""

    name: ModelName


@dataclass(frozen=True, slots=True)
class DescribeModel:
    """Read what decides how much memory a model takes (`/api/show`). Results in ModelFacts, or in
    None if the server does not tell."""

    name: ModelName


@dataclass(frozen=True, slots=True)
class Load:
    """Load a model. Result: the seconds that it took."""

    spec: Spec
    embeds: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Warm:
    """Have the model answer a warm-up prompt. Result: Warmed."""

    spec: Spec
    warmup: WarmUp
    embeds: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Unload:
    """Request the unload of several models at once. Result: {name: error text} for those whose
    request was refused. Only ListResident shows whether they are gone (fact 1)."""

    names: tuple[ModelName, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """Make a name point to another name's content (fact 21)."""

    source: ModelName
    destination: ModelName


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a name from the disk. Succeeds if it is already gone."""

    name: ModelName


@dataclass(frozen=True, slots=True)
class ReadGate:
    """Read what the gateway processes reported of this switch's closed gate. Result:
    GateStatus."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Send the Wake-on-LAN packet for a network card."""

    mac: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass."""

    seconds: float


T = TypeVar("T")

Effect = (
    ListResident
    | ListInstalled
    | ShowModel
    | DescribeModel
    | Load
    | Warm
    | Unload
    | Copy
    | Delete
    | ReadGate
    | Wake
    | Pause
)
Steps = Generator[Effect, Any, T]
