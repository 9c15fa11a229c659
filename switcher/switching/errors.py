"""Why a switch cannot go on."""

from __future__ import annotations

from switcher.domain.errors import SwitcherError


class Cancelled(SwitcherError):
    """Somebody cancelled the switch."""

    code = "cancelled"

    def __init__(self, by: str) -> None:
        super().__init__(f"{by} cancelled the switch.")
        self.by = by


class BelowFloor(SwitcherError):
    """The loaded model does not meet the profile's floors."""

    code = "below-floor"


class NotResident(SwitcherError):
    """The server does not list a model that should be loaded."""

    code = "not-resident"


class NotPublished(SwitcherError):
    """The published name cannot be pointed at the model."""

    code = "not-published"


class Interrupted(SwitcherError):
    """The process that ran the switch ended before the switch did."""

    code = "interrupted"
