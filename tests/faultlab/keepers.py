"""The lease keeper without its threads: the timeline says when each tick runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import cast

from django.db import DatabaseError

from switcher.domain.clock import Clock
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.switching.lease_keeper import LeaseKeeper


class _Stopping:
    """A stand-in for the event that tells a process to hand over."""

    def __init__(self) -> None:
        self.set_ = False

    def is_set(self) -> bool:
        return self.set_


class LabKeeper(LeaseKeeper):
    """The product's lease keeper, called by the lab instead of by its threads."""

    def __init__(
        self, switch: ClaimedSwitch, clock: Clock, renewed: Callable[[int, float], None]
    ) -> None:
        self.wish = _Stopping()
        super().__init__(switch, clock, cast("object", self.wish), clock.monotonic())  # type: ignore[arg-type]
        self._renewed = renewed
        self.silent_until = 0.0  # until then the database answers no renewal

    def renew_round(self) -> None:
        """Run one tick of the renewing loop. A tick that fails is tried again a second later."""
        with suppress(DatabaseError):
            self.renew()

    def _renew_lease(self) -> None:
        asked_at = self._clock.monotonic()
        if asked_at < self.silent_until:
            raise DatabaseError("the database does not answer")
        super()._renew_lease()
        if not self._lost:
            self._renewed(self._switch.fence, asked_at)
