"""The keeper without its threads: each of its rounds is run when the timeline says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from django.db import DatabaseError

from switcher.domain.clock import Clock
from switcher.records import switches
from switcher.records.switches import ClaimedSwitch
from switcher.switching.lease_keeper import CANCEL_S, RENEW_S, LeaseKeeper


class _OneRound:
    """Stands in for the event that ends the keeper's loops: they go round once."""

    def __init__(self) -> None:
        self._rounds = 0

    def wait(self, timeout: float) -> bool:
        self._rounds += 1
        return self._rounds > 1

    def is_set(self) -> bool:
        return False


class _Stopping:
    """The process's wish to hand over, as an event of its own."""

    def __init__(self) -> None:
        self.set_ = False

    def is_set(self) -> bool:
        return self.set_


class LabKeeper(LeaseKeeper):
    """Its looks, renewals and cuts are the product's own code; only who calls them is the lab."""

    def __init__(
        self, held: ClaimedSwitch, clock: Clock, renewed: Callable[[int, float], None]
    ) -> None:
        self.wish = _Stopping()
        super().__init__(held, clock, cast("object", self.wish), clock.monotonic())  # type: ignore[arg-type]
        self._renewed = renewed
        self._since = 0.0
        self.silent_until = 0.0  # until then the database does not answer a renewal

    def renew_round(self) -> None:
        """What the renewing thread does each CANCEL_S (see `Keeper._renew`)."""
        self._since += CANCEL_S
        try:
            if not self.cancelled_by:
                self.cancelled_by = switches.cancel_asked(self._held.switch_id)
            if self._since >= RENEW_S:
                self._renew_once()
                self._since = 0.0
        except DatabaseError:
            pass  # tried again each second, as the thread does

    def _renew_once(self) -> None:
        asked_at = self._clock.monotonic()
        if asked_at < self.silent_until:
            raise DatabaseError("the database does not answer")
        super()._renew_once()
        if not self._lost:
            self._renewed(self._held.fence, asked_at)

    def watch_round(self) -> None:
        """What the watching thread does each WATCH_S: its own loop, once round."""
        self._over = _OneRound()  # type: ignore[assignment]
        self._watch()
