"""Keeps the host's lease while a switch runs, and cuts the call under way when it may not go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, connections

from switcher.domain.clock import Clock
from switcher.domain.errors import FenceLost
from switcher.domain.states import State
from switcher.ollama.calls import Call
from switcher.records import leases, switches
from switcher.records.switches import ClaimedSwitch

log = logging.getLogger(__name__)

RENEW_S = leases.LEASE_S / 3
CANCEL_S = 1.0  # a cancel is seen within 2 s, also in mid-load
WATCH_S = 0.2

# What restores is not interrupted, and from the activation on there is nothing to cancel.
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
    """Leave the switch as it stands: the next start goes on from there."""


class LeaseKeeper:
    """Two threads beside a run: one renews the lease and reads the cancel flag from the database,
    the other only looks at the clock, so that a database that hangs cannot stretch the lease."""

    def __init__(
        self, held: ClaimedSwitch, clock: Clock, stopping: threading.Event, asked_at: float
    ) -> None:
        """`asked_at` is the moment, by the clock that never jumps, before the lease was taken."""
        self._held = held
        self._clock = clock
        self._stopping = stopping
        self._valid_until = asked_at + leases.LEASE_S
        self._lost = False
        self._over = threading.Event()
        self._call: Call | None = None
        self._lock = threading.Lock()
        self.cancelled_by = ""

    def __enter__(self) -> LeaseKeeper:
        for work in (self._renew, self._watch):
            name = f"switch-{self._held.switch_id}-{work.__name__.strip('_')}"
            threading.Thread(target=work, name=name, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()

    def check(self) -> None:
        """Look at the lease itself, just before a call. FenceLost or HandedOver: no call."""
        if self._stopping.is_set():
            raise ShuttingDown
        if self._lost or not leases.holds(self._held.host_id, self._held.fence, self._clock):
            self._lost = True
            raise FenceLost(f"The lease on {self._held.host} is not ours any more.")
        self.cancelled_by = self.cancelled_by or switches.cancel_asked(self._held.switch_id)

    @contextmanager
    def watching(self, call: Call) -> Iterator[None]:
        """While this call is under way it is cut if it may not go on."""
        with self._lock:
            self._call = call
        try:
            yield
        finally:
            with self._lock:
                self._call = None

    def _renew(self) -> None:
        since = 0.0
        while not self._over.wait(CANCEL_S):
            since += CANCEL_S
            try:
                if not self.cancelled_by:
                    self.cancelled_by = switches.cancel_asked(self._held.switch_id)
                if since >= RENEW_S:
                    self._renew_once()
                    since = 0.0
            except DatabaseError:
                # Tried again each second; if it lasts, _watch cuts the call in time.
                log.exception("lease of %s: the database does not answer", self._held.host)
        connections.close_all()

    def _renew_once(self) -> None:
        asked_at = self._clock.monotonic()
        if leases.renew(self._held.host_id, self._held.fence, self._clock):
            self._valid_until = asked_at + leases.LEASE_S
        else:
            self._lost = True

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            # The next look at the clock may come too late: the call ends before the lease does.
            if self._clock.monotonic() >= self._valid_until - WATCH_S:
                self._lost = True
            if self._lost or self._stopping.is_set() or self._cancels():
                self._cut()

    def _cancels(self) -> bool:
        """A cancel cuts what leads forward, never what restores or tidies up."""
        return bool(self.cancelled_by) and self._held.state in CANCELLABLE

    def _cut(self) -> None:
        with self._lock:
            if self._call is not None:
                self._call.cut()
