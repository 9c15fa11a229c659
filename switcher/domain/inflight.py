"""How many requests the gateway has under way, by host: in memory, for this process.

Low and without Django. Each process of the gateway tells its own counts to the switch that waits
for them (see gateway.table).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

# A process of the gateway that was not seen for so many seconds is taken for dead: no switch waits
# for it. By then it has stopped passing requests on by itself, so none slips through.
DEAD_AFTER_S = 5.0

_lock = threading.Lock()
_counts: Counter[int] = Counter()
_unsent: Counter[int] = Counter()


class InFlightRequest:
    """One request on its way to a host."""

    def __init__(self, host_id: int) -> None:
        self._host_id = host_id
        self._sent = False

    def sent(self) -> None:
        """It is written to the host: from now on the host knows of it. The first call counts."""
        if not self._sent:
            self._sent = True
            with _lock:
                _less(_unsent, self._host_id)


@contextmanager
def entered(host_id: int) -> Iterator[InFlightRequest]:
    """Count one request on this host while the block lasts."""
    passage = InFlightRequest(host_id)
    with _lock:
        _counts[host_id] += 1
        _unsent[host_id] += 1
    try:
        yield passage
    finally:
        passage.sent()
        with _lock:
            _less(_counts, host_id)


def _less(counts: Counter[int], host_id: int) -> None:
    counts[host_id] -= 1
    if not counts[host_id]:
        del counts[host_id]


def in_flight(host_id: int) -> int:
    """Requests under way on this host now."""
    with _lock:
        return _counts.get(host_id, 0)


def unsent(host_id: int) -> int:
    """Those of them that the host does not know of yet: they are connecting, or being written."""
    with _lock:
        return _unsent.get(host_id, 0)


def total() -> int:
    """Requests under way on any host."""
    with _lock:
        return sum(_counts.values())
