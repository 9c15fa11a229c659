"""Wait for the gateway: a switch closes the host's gate, and the gateway processes report when they
have noticed."""

from __future__ import annotations

from collections.abc import Callable

from switcher.queries.gates import GateStatus
from switcher.switching.effects import Pause, ReadGate, Steps

DRAIN_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.02


def drain() -> Steps[int]:
    """Wait until every gateway process knows that the gate is closed and all running requests have
    ended, but for DRAIN_TIMEOUT_S at most. Return how many requests are still running.

    Running requests are not cut off: a busy model stays until its requests end (fact 2).
    """
    status = yield from _wait(lambda status: not (status.unaware or status.in_flight))
    return status.in_flight


def wait_until_gate_is_known() -> Steps[bool]:
    """Wait until every gateway process knows that the gate is closed, and has sent the requests
    that it let through before: from then on none sends a request to the old model. Return whether
    there is any gateway process."""
    status = yield from _wait(lambda status: not (status.unaware or status.unsent))
    return status.processes > 0


def _wait(is_over: Callable[[GateStatus], bool]) -> Steps[GateStatus]:
    waited = 0.0
    while True:
        status: GateStatus = yield ReadGate()
        if is_over(status) or waited >= DRAIN_TIMEOUT_S:
            return status
        yield Pause(POLL_INTERVAL_S)
        waited += POLL_INTERVAL_S
