"""The worker: finds switches that are queued or were left by a dead process, and runs them.

One loop looks for open switches; each host's switch runs in a thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from django.db import InterfaceError, OperationalError, connections

from switcher.concurrency.loop import Loop
from switcher.concurrency.outage_flags import SwitchFlag, raise_for_switch
from switcher.domain.clock import Clock, system
from switcher.domain.errors import FenceLost
from switcher.domain.servers import Server
from switcher.domain.states import State
from switcher.ollama.client import Client, Ollama
from switcher.records import leases, switches
from switcher.records.claimed_switch import ClaimedSwitch, claim
from switcher.records.leases import new_owner
from switcher.switching import wake
from switcher.switching.driver import Driver
from switcher.switching.lease_keeper import LeaseKeeper, ShuttingDown
from switcher.switching.steps import run

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 2.0
HAND_OVER_TIMEOUT_S = 2.0
_never = threading.Event()


class Worker:
    """Runs open switches. Call `start` and `stop` once each; tests call `look_once`."""

    def __init__(self, clock: Clock = system) -> None:
        self._clock = clock
        self._owner = new_owner()
        self._shutting_down = threading.Event()
        self._running: dict[int, threading.Thread] = {}
        self._loop = Loop("switch-worker", self.look_once, LOOK_INTERVAL_S)

    def start(self) -> None:
        wake.add(self._loop)
        self._loop.start()

    def stop(self, patience_s: float) -> None:
        """Start no further switch. Give running ones `patience_s` to end, then leave them to the
        next start."""
        wake.remove(self._loop)
        self._loop.stop()
        self._join_running(patience_s)
        self._shutting_down.set()
        self._join_running(HAND_OVER_TIMEOUT_S)

    def _join_running(self, patience_s: float) -> None:
        until = self._clock.monotonic() + patience_s
        for thread in list(self._running.values()):
            thread.join(max(0.0, until - self._clock.monotonic()))

    def look_once(self) -> None:
        """Start a thread for each open switch that no worker runs."""
        for switch_id, host_id in switches.unclaimed(self._clock):
            if host_id in self._running or self._loop.stopping:
                continue
            name = f"switch-{switch_id}"
            thread = threading.Thread(
                target=self._run_in_thread, args=(switch_id, host_id), name=name, daemon=True
            )
            self._running[host_id] = thread
            thread.start()

    def _run_in_thread(self, switch_id: int, host_id: int) -> None:
        ended = False
        try:
            ended = run_once(switch_id, self._owner, self._clock, self._shutting_down)
        except Exception:
            log.exception("switch %s: the run failed", switch_id)
        finally:
            connections.close_all()
            self._running.pop(host_id, None)
        if ended:
            wake.worker()  # the next switch of this host need not wait for the next look


def run_once(
    switch_id: int,
    owner: str | None = None,
    clock: Clock = system,
    stopping: threading.Event = _never,
    connect: Callable[[Server], Ollama] = Client,
) -> bool:
    """Run one switch to its end in this thread, continuing from its record.

    Return False if another process has it, or this one is shutting down.
    """
    host_id = switches.host_of(switch_id)
    taken_at = clock.monotonic()
    fence = leases.take(host_id, owner or new_owner(), clock)
    if fence is None:
        return False
    flag: SwitchFlag | None = None
    try:
        flag = raise_for_switch(host_id)
        if flag is None:
            log.warning("switch %s waits: the gateway's routes are stale", switch_id)
            return False
        switch = claim(switch_id, fence, clock)
        if switch is None:
            return False
        _drive(switch, clock, stopping, connect, taken_at)
        return True
    except ShuttingDown:
        log.info("switch %s is left to the next start", switch_id)
        return False
    except FenceLost as exc:
        log.warning("switch %s: %s", switch_id, exc)
        return False
    finally:
        if flag is not None:
            flag.lower()
        leases.give_back(host_id, fence)


def _drive(
    switch: ClaimedSwitch,
    clock: Clock,
    stopping: threading.Event,
    connect: Callable[[Server], Ollama],
    taken_at: float,
) -> None:
    client: Ollama | None = None
    try:
        client = connect(switch.row.host.server)
        with LeaseKeeper(switch, clock, stopping, taken_at) as keeper:
            Driver(switch, client, keeper, clock).run(run(switch))
    except (FenceLost, ShuttingDown):
        raise
    except (OperationalError, InterfaceError):
        # The database is locked, full or away, which is not the switch's fault: a later look
        # continues it from its record.
        raise
    except Exception as exc:
        log.exception("switch %s: unexpected error", switch.id)
        _end_after_bug(switch, exc)
    finally:
        if client is not None:
            client.close()


def _end_after_bug(switch: ClaimedSwitch, exc: Exception) -> None:
    """End a switch in which our own code failed: do not touch the host any more, and say so."""
    text = f"Switchboard made a mistake ({type(exc).__name__}). See its log."
    touched = switch.state not in (State.QUEUED, State.CHECKING)
    if touched and switch.state is not State.RESTORING:
        switch.move(State.RESTORING, error_code="internal", error=text)
    switch.end(
        State.FAILED,
        degraded=touched,
        error_code="internal",
        error=text,
        outcome=f"{switch.host} may not hold what it should: check it."
        if touched
        else f"Nothing was touched on {switch.host}.",
    )
