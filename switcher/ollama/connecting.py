"""A new connection, made so that it can be given up.

`socket.create_connection` cannot: it waits for a name server as long as the system likes, and for
each address of a host for the whole timeout. Here one timeout is for all of it, and who waits looks
up every LOOK_S.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from urllib3.util.wait import wait_for_write

LOOK_S = 0.1

Options = Sequence[tuple[int, int, int | bytes]]
_Address = tuple[Any, ...]
_Found = tuple[int, int, int, _Address]  # family, type, protocol, address


class GivenUp(OSError):
    """Nobody wants the connection any more."""


class _Wait:
    """How long to wait, and whether to."""

    def __init__(self, timeout_s: float, unwanted: Callable[[], bool]) -> None:
        self._until = time.monotonic() + timeout_s
        self._unwanted = unwanted

    def slice_s(self, until: float | None = None) -> float:
        """Seconds until the next look. Raises GivenUp, TimeoutError."""
        if self._unwanted():
            raise GivenUp("nobody waits for it any more")
        left = min(self._until, until or self._until) - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(LOOK_S, left)

    def share(self, among: int) -> float:
        """The moment until which the first of so many may try."""
        return time.monotonic() + (self._until - time.monotonic()) / among


def connect(
    host: str,
    port: int,
    timeout_s: float,
    options: Options,
    unwanted: Callable[[], bool],
) -> socket.socket:
    """A connection to the first address of `host` that takes one, within `timeout_s` in all.

    Raises GivenUp once `unwanted()`, TimeoutError, socket.gaierror, OSError.
    """
    wait = _Wait(timeout_s, unwanted)
    found = _addresses(host.strip("[]"), port, wait)
    failure: OSError = OSError("the name has no address")
    for n, (family, kind, protocol, address) in enumerate(found):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as exc:  # a family that this machine does not speak
            failure = exc
            continue
        try:
            for option in options:
                sock.setsockopt(*option)
            _reach(sock, address, wait, wait.share(len(found) - n))
        except GivenUp:
            sock.close()
            raise
        except OSError as exc:
            sock.close()
            failure = exc
        else:
            sock.settimeout(timeout_s)
            return sock
    raise failure


def _reach(sock: socket.socket, address: _Address, wait: _Wait, until: float) -> None:
    sock.setblocking(False)
    failed = sock.connect_ex(address)
    if failed in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        while not wait_for_write(sock, wait.slice_s(until)):
            pass
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failed:
        raise OSError(failed, os.strerror(failed))


class _Lookup:
    """A name on its way to its addresses, in a thread: that waiting cannot be cut."""

    def __init__(self, host: str, port: int) -> None:
        self.over = threading.Event()
        self.found: list[_Found] = []
        self.failure: OSError | UnicodeError | None = None
        self._key = (host, port)

    def run(self) -> None:
        try:
            self.found = _resolve(*self._key)
        except (OSError, UnicodeError) as exc:
            self.failure = exc
        finally:
            with _lock:
                del _lookups[self._key]
            self.over.set()


_lock = threading.Lock()
# One a name, however many wait for it: what a dead name server holds up stays bounded.
_lookups: dict[tuple[str, int], _Lookup] = {}


def _addresses(host: str, port: int, wait: _Wait) -> list[_Found]:
    try:
        return _resolve(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # it is a name
    lookup = _begin(host, port)
    while not lookup.over.wait(wait.slice_s()):
        pass
    if lookup.failure is not None:
        raise lookup.failure
    return lookup.found


def _begin(host: str, port: int) -> _Lookup:
    with _lock:
        lookup = _lookups.get((host, port))
        if lookup is None:
            lookup = _lookups[host, port] = _Lookup(host, port)
            threading.Thread(target=lookup.run, name="name-lookup", daemon=True).start()
        return lookup


def _resolve(host: str, port: int, flags: int = 0) -> list[_Found]:
    rows = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, flags=flags)
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in rows]
