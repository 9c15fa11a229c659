"""Bounds on a server's connections: how many there are, and how slowly a request may arrive.

A connection that waits for a request, or for the rest of its headers, gives way to a new one where
there are too many. So clients that send half a request each cannot keep others out.
"""

from __future__ import annotations

import resource
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

HEADERS_TIMEOUT_S = 10.0
# A body has to arrive at this rate at least, measured over each interval.
BODY_INTERVAL_S = 10.0
MIN_BODY_BYTES_PER_S = 500
# Longer than proxies keep an idle connection (nginx: 60 s), or one may be closed just as a request
# is sent on it.
IDLE_TIMEOUT_S = 75

TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

# For the database, the log, the hosts' readings and connections that are being accepted.
RESERVED_FILES = 200
MAX_FILES = 65_536
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 60, 15, 4


def raise_file_limit() -> int:
    """Allow this process as many open files as it may have, and return that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return MAX_FILES if soft == resource.RLIM_INFINITY else soft


def max_connections(files: int) -> int:
    """Return how many connections a process may accept: a request that is forwarded needs a second
    one, to its host."""
    return max(16, (files - RESERVED_FILES) // 2)


class Connections:
    """The open connections of a server. `exempt` says which addresses may use all of them, such as
    those of trusted proxies; any other may use half."""

    def __init__(self, limit: int, exempt: Callable[[str], bool] = lambda _: False) -> None:
        self.limit = limit
        self._exempt = exempt
        self._by_address: Counter[str] = Counter()
        self._total = 0
        # Connections that may give way, by address, the oldest first.
        self._waiting: dict[str, dict[Any, Callable[[], None]]] = {}

    def admit(self, address: str) -> bool:
        """Return whether another connection may be accepted. Where there are too many, the oldest
        one that waits is aborted: of the same address, or else of the one with the most."""
        is_over = not self._exempt(address) and self._by_address[address] >= self.limit // 2
        if is_over:
            return self._abort_oldest(address)
        if self._total >= self.limit:
            most = max(self._waiting, key=lambda a: len(self._waiting[a]), default=address)
            return self._abort_oldest(most)
        return True

    def _abort_oldest(self, address: str) -> bool:
        waiting = self._waiting.get(address)
        if not waiting:
            return False
        oldest, abort = next(iter(waiting.items()))
        self.stop_waiting(address, oldest)
        abort()
        return True

    def add(self, address: str) -> None:
        self._by_address[address] += 1
        self._total += 1

    def remove(self, address: str) -> None:
        self._total -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def wait(self, address: str, connection: Any, abort: Callable[[], None]) -> None:
        """Note that a connection waits for a request, and how it can be aborted."""
        self._waiting.setdefault(address, {})[connection] = abort

    def stop_waiting(self, address: str, connection: Any) -> None:
        waiting = self._waiting.get(address, {})
        waiting.pop(connection, None)
        if not waiting:
            self._waiting.pop(address, None)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel close a connection whose other end is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if option := getattr(socket, name, None):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
