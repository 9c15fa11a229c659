"""The lease keeper without its threads: each tick is run when the timeline says so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import cast

from django.db import DatabaseError

from switcher.domain.clock import Clock
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.switching.lease_keeper import LeaseKeeper


class _Stopping:
    """The process's wish to hand over, as an event of its own."""

    def __init__(self) -> None:
        self.set_ = False

    def is_set(self) -> bool:
        return self.set_


class LabKeeper(LeaseKeeper):
    """Its looks, renewals and cuts are the product's own code; only who calls them is the lab."""

    def __init__(
        self, switch: ClaimedSwitch, clock: Clock, renewed: Callable[[int, float], None]
    ) -> None:
        self.wish = _Stopping()
        super().__init__(switch, clock, cast("object", self.wish), clock.monotonic())  # type: ignore[arg-type]
        self._renewed = renewed
        self.silent_until = 0.0  # until then the database does not answer a renewal

    def renew_round(self) -> None:
        """Run a tick of the renewing loop; one that fails is tried again a second later."""
        with suppress(DatabaseError):
            self.renew()

    def _renew_lease(self) -> None:
        asked_at = self._clock.monotonic()
        if asked_at < self.silent_until:
            raise DatabaseError("the database does not answer")
        super()._renew_lease()
        if not self._lost:
            self._renewed(self._switch.fence, asked_at)
