"""Makes a connection in a way that can be cancelled.

`socket.create_connection` waits for a name server as long as the system does, and allows the whole
timeout for each address of a host. Here one timeout covers everything, and cancelling takes effect
within POLL_INTERVAL_S.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any
from urllib.parse import urlsplit

from urllib3.util.wait import wait_for_write

from switcher.domain.addresses import DEFAULT_PORTS
from switcher.ollama import guard
from switcher.ollama.guard import AddressInfo

POLL_INTERVAL_S = 0.1

SocketOptions = Sequence[tuple[int, int, int | bytes]]
_SocketAddress = tuple[Any, ...]


class ConnectCancelled(OSError):
    """The connection is no longer needed."""


class _TimeLeft:
    """The time left for making a connection, and whether it was cancelled."""

    def __init__(self, timeout_s: float, is_cancelled: Callable[[], bool]) -> None:
        self._until = time.monotonic() + timeout_s
        self._is_cancelled = is_cancelled

    def next_wait_s(self, until: float | None = None) -> float:
        """Return how long to wait before asking again. Raises ConnectCancelled, TimeoutError."""
        if self._is_cancelled():
            raise ConnectCancelled("the call was cut")
        left_s = min(self._until, until or self._until) - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return min(POLL_INTERVAL_S, left_s)

    def share(self, addresses: int) -> float:
        """Return the monotonic time until which the next of this many addresses may be tried."""
        return time.monotonic() + (self._until - time.monotonic()) / addresses


def connect(
    host: str,
    port: int,
    timeout_s: float,
    options: SocketOptions,
    is_cancelled: Callable[[], bool],
) -> socket.socket:
    """Connect to the first address of `host` that accepts, within `timeout_s` in all.

    Raises ConnectCancelled, TimeoutError, socket.gaierror, OSError; AddressRefused if any of the
    addresses is not allowed, even if others are.
    """
    time_left = _TimeLeft(timeout_s, is_cancelled)
    addresses = _resolve(host.strip("[]"), port, time_left)
    for info in addresses:
        guard.check(info[4][0], info[4][1])
    failure: OSError = OSError("the name has no address")
    for index, info in enumerate(addresses):
        try:
            sock = guard.open_socket(info)
        except OSError as exc:  # this machine does not support the family
            failure = exc
            continue
        try:
            for option in options:
                sock.setsockopt(*option)
            _connect_socket(sock, info[4], time_left, time_left.share(len(addresses) - index))
        except ConnectCancelled:
            sock.close()
            raise
        except OSError as exc:
            sock.close()
            failure = exc
        else:
            sock.settimeout(timeout_s)
            return sock
    raise failure


def check_address(base_url: str, timeout_s: float = 2.0) -> None:
    """Raise AddressRefused if a server's name means an address that is never contacted. A name that
    is not known passes, since it may be known later."""
    parts = urlsplit(base_url)
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    try:
        found = _resolve(parts.hostname or "", port, _TimeLeft(timeout_s, lambda: False))
    except (OSError, UnicodeError):
        return
    for info in found:
        guard.check(info[4][0], port)


def _connect_socket(
    sock: socket.socket, address: _SocketAddress, time_left: _TimeLeft, until: float
) -> None:
    sock.setblocking(False)
    error = sock.connect_ex(address)
    if error in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        while not wait_for_write(sock, time_left.next_wait_s(until)):
            pass
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


_lock = threading.Lock()
# One lookup per name at a time, however many wait for it: this limits the threads that a dead name
# server can block.
_lookups: dict[tuple[str, int], Future[list[AddressInfo]]] = {}


def _resolve(host: str, port: int, time_left: _TimeLeft) -> list[AddressInfo]:
    try:
        return _address_infos(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name
    lookup = _begin_lookup(host, port)
    while not lookup.done():
        wait([lookup], time_left.next_wait_s())
    return lookup.result()


def _begin_lookup(host: str, port: int) -> Future[list[AddressInfo]]:
    """Look the name up in a thread, since `getaddrinfo` cannot be cancelled."""
    with _lock:
        lookup = _lookups.get((host, port))
        if lookup is None:
            lookup = _lookups[host, port] = Future()
            args = (lookup, host, port)
            threading.Thread(target=_look_up, args=args, name="name-lookup", daemon=True).start()
        return lookup


def _look_up(lookup: Future[list[AddressInfo]], host: str, port: int) -> None:
    addresses: list[AddressInfo] = []
    failure: Exception | None = None
    try:
        addresses = _address_infos(host, port)
    except (OSError, UnicodeError) as exc:
        failure = exc
    with _lock:  # before it has a result, or the next connection would take this one as its own
        del _lookups[host, port]
    if failure is None:
        lookup.set_result(addresses)
    else:
        lookup.set_exception(failure)


def _address_infos(host: str, port: int, flags: int = 0) -> list[AddressInfo]:
    return socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, flags=flags)  # type: ignore[return-value]
