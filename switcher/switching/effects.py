"""What a switch asks of the outside world, as values.

The steps of a switch are a generator that yields these and is sent their results; the driver
performs them. So the order of things can be run against a real server, or against a model of one
with simulated time and a crash at any point, without changing a line.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from switcher.domain.errors import SwitcherError
from switcher.domain.model_names import ModelName
from switcher.domain.specs import Spec, WarmUp


@dataclass(frozen=True, slots=True)
class ListResident:
    """Read `/api/ps` now; gives tuple[Resident, …]. What gates an act is always fresh (rule 6)."""


@dataclass(frozen=True, slots=True)
class ListInstalled:
    """Read `/api/tags` now; gives tuple[Installed, …]."""


@dataclass(frozen=True, slots=True)
class ShowModel:
    """Read what a model can do (`/api/show`); gives tuple[str, …]."""

    name: ModelName


@dataclass(frozen=True, slots=True)
class Load:
    """Load a model; gives Loaded."""

    spec: Spec
    embeds: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Warm:
    """Have a warm-up prompt answered; gives Warmed."""

    spec: Spec
    warmup: WarmUp
    embeds: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Unload:
    """Ask for the unload of several models at once; gives {name: error text}, empty if all took
    the request. Whether they leave only Look tells (fact 1)."""

    names: tuple[ModelName, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """Point a name at another one's content (fact 21)."""

    source: ModelName
    destination: ModelName


@dataclass(frozen=True, slots=True)
class Delete:
    """Take a name off the disk; that it was gone already is fine."""

    name: ModelName


@dataclass(frozen=True, slots=True)
class InFlight:
    """What the gateway's processes have told of this switch's closed gate; gives GateStatus."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass."""

    seconds: float


T = TypeVar("T")

Effect = (
    ListResident
    | ListInstalled
    | ShowModel
    | Load
    | Warm
    | Unload
    | Copy
    | Delete
    | InFlight
    | Pause
)
Steps = Generator[Effect, Any, T]


class Cancelled(SwitcherError):
    """Somebody asked for the cancelling of this switch."""

    code = "cancelled"

    def __init__(self, by: str) -> None:
        super().__init__(f"{by} cancelled the switch.")
        self.by = by


class GateFailed(SwitcherError):
    """What was loaded is not good enough to be activated."""

    code = "below-floor"


class NotResident(SwitcherError):
    """The server does not list what it should hold."""

    code = "not-resident"


class NotPublished(SwitcherError):
    """The published name cannot be pointed at a model."""

    code = "not-published"


class Interrupted(SwitcherError):
    """The process that ran the switch ended in the middle."""

    code = "interrupted"
