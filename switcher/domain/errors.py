"""The root of all errors of Switchboard, and the kinds that entry points distinguish.

An error's text is for people: what happened, what is true now, what to do. Only entry points map
kinds to HTTP statuses and exit codes.
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
    """The input is not valid."""

    code = "bad-request"

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class NotFound(SwitcherError):
    """There is no such host, profile, model or switch."""

    code = "not-found"


class NotAllowed(SwitcherError):
    """The one who asks may not do this."""

    code = "not-allowed"


class Conflict(SwitcherError):
    """The request conflicts with what is true now."""

    code = "conflict"


class HostBusy(Conflict):
    """Something else is at work on the host; try again in a moment."""

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
    """The plan cannot work."""

    code = "plan-blocked"


class FenceLost(SwitcherError):
    """Another worker has taken over this host, so this one must not touch it."""

    code = "fence-lost"


class TrailUnreadable(SwitcherError):
    """A row of the audit trail's tables cannot be read: somebody changed the database."""

    code = "trail-unreadable"
