"""Keeps a host's lease while a switch runs, and cuts the current call when it must not continue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from switcher.concurrency.loop import Loop
from switcher.domain.clock import Clock
from switcher.domain.errors import FenceLost
from switcher.domain.states import State
from switcher.ollama.calls import Call
from switcher.records import leases, switches
from switcher.records.claimed_switch import ClaimedSwitch

RENEW_INTERVAL_S = leases.LEASE_S / 3
POLL_INTERVAL_S = 1.0  # a cancel is seen within 2 s, also in the middle of a load
WATCH_INTERVAL_S = 0.2

# Restoring is not interrupted, and from the activation on there is nothing left to cancel.
CANCELLABLE = frozenset(
    {
        State.QUEUED,
        State.CHECKING,
        State.DRAINING,
        State.LOADING,
        State.WARMING,
        State.VERIFYING,
    }
)


class ShuttingDown(Exception):
    """The process is stopping: leave the switch as it is, for the next start to continue."""


class LeaseKeeper:
    """Two loops that run during a switch. One renews the lease and reads the cancel flag. The other
    only watches the clock, so that a call is cut in time even if the database hangs."""

    def __init__(
        self, switch: ClaimedSwitch, clock: Clock, stopping: threading.Event, taken_at: float
    ) -> None:
        """`taken_at` is the monotonic time just before the lease was taken."""
        self._switch = switch
        self._clock = clock
        self._stopping = stopping
        self._valid_until = taken_at + leases.LEASE_S
        self._lost = False
        self._call: Call | None = None
        self._lock = threading.Lock()
        self._loops = (
            Loop(f"switch-{switch.id}-renew", self.renew, POLL_INTERVAL_S),
            Loop(f"switch-{switch.id}-watch", self.watch, WATCH_INTERVAL_S),
        )
        self.cancelled_by = ""

    def __enter__(self) -> LeaseKeeper:
        for loop in self._loops:
            loop.start(after_s=loop.every_s)
        return self

    def __exit__(self, *exc: object) -> None:
        for loop in self._loops:
            loop.stop()

    def check(self) -> None:
        """Check the lease and read the cancel flag, just before a call. Raises FenceLost or
        ShuttingDown."""
        if self._stopping.is_set():
            raise ShuttingDown
        if self._lost or not leases.holds(self._switch.host_id, self._switch.fence, self._clock):
            self._lost = True
            raise FenceLost(f"Another worker has taken over {self._switch.host}.")
        self.cancelled_by = self.cancelled_by or switches.cancel_requested_by(self._switch.id)

    @contextmanager
    def watching(self, call: Call) -> Iterator[None]:
        """Inside the block, cut this call as soon as it must not continue."""
        with self._lock:
            self._call = call
        try:
            yield
        finally:
            with self._lock:
                self._call = None

    def renew(self) -> None:
        """Read the cancel flag, and renew the lease if it is time to. If the database does not
        answer, the loop tries again; if that takes too long, `watch` cuts the call."""
        if not self.cancelled_by:
            self.cancelled_by = switches.cancel_requested_by(self._switch.id)
        renewed_at = self._valid_until - leases.LEASE_S
        if self._clock.monotonic() >= renewed_at + RENEW_INTERVAL_S:
            self._renew_lease()

    def _renew_lease(self) -> None:
        asked_at = self._clock.monotonic()
        if leases.renew(self._switch.host_id, self._switch.fence, self._clock):
            self._valid_until = asked_at + leases.LEASE_S
        else:
            self._lost = True

    def watch(self) -> None:
        """Cut the current call if the lease is lost, the process stops or somebody cancels."""
        # The next tick may come too late: the call ends before the lease does.
        if self._clock.monotonic() >= self._valid_until - WATCH_INTERVAL_S:
            self._lost = True
        if self._lost or self._stopping.is_set() or self._cancels():
            self._cut()

    def _cancels(self) -> bool:
        """Return whether a cancel applies now: it never interrupts restoring or cleaning up."""
        return bool(self.cancelled_by) and self._switch.state in CANCELLABLE

    def _cut(self) -> None:
        with self._lock:
            if self._call is not None:
                self._call.cut()
