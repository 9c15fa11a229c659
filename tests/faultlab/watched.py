"""Observe every write to the records and every lease. The lab judges by these alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from switcher.domain.states import State
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.leases import LEASE_S

if TYPE_CHECKING:
    from tests.faultlab.processes import Process
    from tests.faultlab.world import World


class Killed(BaseException):
    """The process is killed in the middle of a step: nothing more of it runs."""


@dataclass(slots=True)
class Oracle:
    """Tracks who may touch the host and write to a switch, independently of the database."""

    until: dict[int, float] = field(default_factory=dict)
    highest: int = 0
    holders: dict[int, int] = field(default_factory=dict)  # by switch: the last fence that held it

    def taken(self, fence: int, t: float) -> None:
        self.until[fence] = t + LEASE_S
        self.highest = max(self.highest, fence)

    def renewed(self, fence: int, asked_at: float) -> None:
        self.until[fence] = asked_at + LEASE_S

    def given_back(self, fence: int, t: float) -> None:
        self.until[fence] = min(self.until[fence], t)

    def held(self, switch_id: int, fence: int) -> None:
        self.holders[switch_id] = max(fence, self.holders.get(switch_id, 0))

    def may_call(self, fence: int, t: float) -> bool:
        return fence == self.highest and t < self.until[fence]


@dataclass
class WatchedSwitch(ClaimedSwitch):
    """A claimed switch whose writes are counted and judged. A fault may kill the process at any of
    them."""

    world: World = field(kw_only=True)
    process: Process = field(kw_only=True)

    @classmethod
    def watch(cls, held: ClaimedSwitch, world: World, process: Process) -> WatchedSwitch:
        return cls(held.row, held.fence, held.state, held.clock, world=world, process=process)

    def move(self, to: State, note: str = "", **facts: Any) -> None:
        self._before(f"move to {to}")
        ClaimedSwitch.move(self, to, note, **facts)
        self._after(f"move to {to}")

    def note(self, **facts: Any) -> None:
        self._before("note")
        ClaimedSwitch.note(self, **facts)
        self._after("note")

    def activate(self, to: State, digest: str, note: str = "", **facts: Any) -> None:
        self._before("activate")
        self.world.activating(self, digest)
        ClaimedSwitch.activate(self, to, digest, note, **facts)
        self._after("activate")

    def end(self, to: State, **facts: Any) -> None:
        self._before(f"end as {to}")
        ClaimedSwitch.end(self, to, **facts)
        self._after(f"end as {to}")

    def _before(self, what: str) -> None:
        if self.world.write_kills(self.process, after=False):
            raise Killed

    def _after(self, what: str) -> None:
        self.world.wrote(self, what)
        if self.world.write_kills(self.process, after=True):
            raise Killed
