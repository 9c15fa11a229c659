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


@contextmanager
def entered(host_id: int) -> Iterator[None]:
    """Count one request on this host while the block lasts."""
    with _lock:
        _counts[host_id] += 1
    try:
        yield
    finally:
        with _lock:
            _counts[host_id] -= 1
            if not _counts[host_id]:
                del _counts[host_id]


def in_flight(host_id: int) -> int:
    """Requests under way on this host now."""
    with _lock:
        return _counts.get(host_id, 0)


def total() -> int:
    """Requests under way on any host."""
    with _lock:
        return sum(_counts.values())
