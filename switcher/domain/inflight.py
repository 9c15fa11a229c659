"""How many requests the gateway has in flight, by host: in memory, for this process.

Each gateway process reports its own counts to the switch that waits for them (gateway.route_cache).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

# Seconds after which a gateway process that was not seen is taken for dead, so that no switch waits
# for it. By then it has stopped forwarding by itself.
DEAD_AFTER_S = 5.0

_lock = threading.Lock()
_in_flight: Counter[int] = Counter()
_unsent: Counter[int] = Counter()


class InFlightRequest:
    """One request on its way to a host."""

    def __init__(self, host_id: int) -> None:
        self._host_id = host_id
        self._is_sent = False

    def mark_sent(self) -> None:
        """Note that the host has the request. Only the first call counts."""
        if not self._is_sent:
            self._is_sent = True
            with _lock:
                _decrement(_unsent, self._host_id)


@contextmanager
def count(host_id: int) -> Iterator[InFlightRequest]:
    """Count one request to this host as in flight while the block lasts."""
    request = InFlightRequest(host_id)
    with _lock:
        _in_flight[host_id] += 1
        _unsent[host_id] += 1
    try:
        yield request
    finally:
        request.mark_sent()
        with _lock:
            _decrement(_in_flight, host_id)


def _decrement(counts: Counter[int], host_id: int) -> None:
    counts[host_id] -= 1
    if not counts[host_id]:
        del counts[host_id]


def in_flight(host_id: int) -> int:
    """Return how many requests to this host are in flight."""
    with _lock:
        return _in_flight.get(host_id, 0)


def unsent(host_id: int) -> int:
    """Return how many of them the host does not have yet: their connection is being made, or they
    are being written."""
    with _lock:
        return _unsent.get(host_id, 0)


def total() -> int:
    """Return how many requests to any host are in flight."""
    with _lock:
        return sum(_in_flight.values())
