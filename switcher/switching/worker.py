"""The worker: finds switches that wait or were left by a dead process, and runs them.

One thread looks, one thread a host runs. Levels, not edges: each round looks at the rows; the bell
only makes the next round come sooner.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable

from django.db import InterfaceError, OperationalError, connections

from switcher.domain.clock import Clock, system
from switcher.domain.errors import FenceLost
from switcher.domain.states import State
from switcher.ollama.client import Client, Ollama
from switcher.records import leases, switches
from switcher.records.switches import ClaimedSwitch
from switcher.switching import wake
from switcher.switching.driver import Driver
from switcher.switching.jobs import load_job
from switcher.switching.lease_keeper import LeaseKeeper, ShuttingDown
from switcher.switching.steps import run

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
_never = threading.Event()


def new_owner() -> str:
    """A name for one process's leases: readable, and never the same twice."""
    return f"{socket.gethostname()[:30]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Worker:
    """Runs open switches until it is told to stop. `start` once, `stop` once."""

    def __init__(self, clock: Clock = system) -> None:
        self._clock = clock
        self._owner = new_owner()
        self._no_more = threading.Event()  # take nothing new
        self._hand_over = threading.Event()  # leave what runs
        self._running: dict[int, threading.Thread] = {}
        self._thread = threading.Thread(target=self._loop, name="switch-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience_s: float) -> None:
        """Take nothing new; give what runs `patience_s` to end, then hand it to the next start."""
        self._no_more.set()
        wake.worker()
        until = self._clock.monotonic() + patience_s
        for thread in list(self._running.values()):
            thread.join(max(0.0, until - self._clock.monotonic()))
        self._hand_over.set()
        for thread in list(self._running.values()):
            thread.join(2.0)

    def _loop(self) -> None:
        while not self._no_more.is_set():
            try:
                self.look_once()
            except Exception:
                log.exception("the worker could not read what is open; it tries again")
            wake.wait(LOOK_EVERY_S)
        connections.close_all()

    def look_once(self) -> None:
        """One round: start a thread for each open switch that nobody runs."""
        for switch_id, host_id in switches.waiting(self._clock):
            if host_id in self._running or self._no_more.is_set():
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
            ended = run_once(switch_id, self._owner, self._clock, self._hand_over)
        except Exception:
            log.exception("switch %s: the run broke off", switch_id)
        finally:
            connections.close_all()
            self._running.pop(host_id, None)
        if ended:
            wake.worker()  # what waits for this host may be next; else not before the next round


def run_once(
    switch_id: int,
    owner: str | None = None,
    clock: Clock = system,
    stopping: threading.Event = _never,
    connect: Callable[[str], Ollama] = Client,
) -> bool:
    """Run one switch to its end in this thread, going on from where its record stands.

    Returns False where somebody else has it, or it was handed over; its record tells.
    """
    host_id = switches.host_of(switch_id)
    asked_at = clock.monotonic()
    fence = leases.take(host_id, owner or new_owner(), clock)
    if fence is None:
        return False
    try:
        held = switches.claim(switch_id, fence, clock)
        if held is None:
            return False
        _drive(held, clock, stopping, connect, asked_at)
        return True
    except ShuttingDown:
        log.info("switch %s is left to the next start", switch_id)
        return False
    except FenceLost as exc:
        log.warning("switch %s: %s", switch_id, exc)
        return False
    finally:
        leases.give_back(host_id, fence)


def _drive(
    held: ClaimedSwitch,
    clock: Clock,
    stopping: threading.Event,
    connect: Callable[[str], Ollama],
    asked_at: float,
) -> None:
    client: Ollama | None = None
    try:
        job = load_job(held.switch_id)
        client = connect(job.base_url)
        with LeaseKeeper(held, clock, stopping, asked_at) as keeper:
            Driver(held, client, keeper, clock).run(run(held, job))
    except (FenceLost, ShuttingDown):
        raise
    except (OperationalError, InterfaceError):
        # The database is locked, full or away: no fault of the switch. Its record stands, and a
        # later round goes on from it.
        raise
    except Exception as exc:
        log.exception("switch %s: unexpected", held.switch_id)
        _end_loudly(held, exc)
    finally:
        if client is not None:
            client.close()


def _end_loudly(held: ClaimedSwitch, exc: Exception) -> None:
    """A fault of our own: nothing more is done to the host, and the record says so."""
    text = f"Switchboard made a mistake ({type(exc).__name__}). See its log."
    touched = held.state not in (State.QUEUED, State.CHECKING)
    if touched and held.state is not State.RESTORING:
        held.move(State.RESTORING, error_code="internal", error=text)
    held.end(
        State.FAILED,
        degraded=touched,
        error_code="internal",
        error=text,
        outcome=f"{held.host} may not hold what it should: check it."
        if touched
        else f"Nothing was touched on {held.host}.",
    )
