"""The one root of what can go wrong, and the kinds that entrances tell apart.

An error's text is for people: what happened, what is true now, what to do.
Entrances map the kind to HTTP or to an exit code; nothing below them does.
"""

from __future__ import annotations

from typing import ClassVar


class SwitcherError(Exception):
    """The request could not be carried out."""

    code: ClassVar[str] = "error"

    @property
    def text(self) -> str:
        """The sentence to show."""
        return str(self) or (self.__doc__ or "").strip()


class BadRequest(SwitcherError):
    """The input is not usable."""

    code = "bad-request"

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class NotFound(SwitcherError):
    """There is no such host, profile, model or switch."""

    code = "not-found"


class Conflict(SwitcherError):
    """Something else holds what this needs."""

    code = "conflict"


class HostBusy(Conflict):
    """Something else is at work on the host; in a moment it may not be."""

    code = "host-busy"


class SwitchRunning(Conflict):
    """Another switch runs on this host; `switch_id` names it."""

    code = "switch-running"

    def __init__(self, text: str, switch_id: int) -> None:
        super().__init__(text)
        self.switch_id = switch_id


class PlanOutdated(Conflict):
    """The host changed after the plan was made; nothing was done."""

    code = "plan-outdated"


class PlanBlocked(SwitcherError):
    """The plan cannot work, and says why."""

    code = "plan-blocked"


class FenceLost(SwitcherError):
    """Another worker took this host over: stop touching it."""

    code = "fence-lost"


class TrailUnreadable(SwitcherError):
    """A row of the audit trail's tables cannot be read: somebody changed the database."""

    code = "trail-unreadable"
