"""How many requests the gateway has under way, by host: in memory, for this process.

Low and without Django: the gateway counts, and the draining of a swap looks. A switch that another
process runs sees nothing of it, and need not: the server itself lets a busy model end its running
requests before it leaves (fact 2). Draining only spares them the wait behind the load.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

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
