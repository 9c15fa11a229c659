"""Daphne's connections, with the bounds of `project.connections`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.web.http import HTTPChannel

from project import connections
from project.connections import MIN_BODY_BYTES_PER_S, TOO_SLOW, Connections, keep_alive


class BoundedChannel(HTTPChannel):  # type: ignore[misc]  # Twisted has no types here
    """A connection whose requests have to arrive in time."""

    connections: Connections

    def __init__(self) -> None:
        super().__init__()
        self._deadline: Any = None
        self._received_bytes = 0
        self._is_lost = False

    def connectionMade(self) -> None:  # noqa: N802 - twisted's name
        super().connectionMade()
        self._address = getattr(self.transport.getPeer(), "host", "")
        self.connections.add(self._address)
        _call_before(self.transport, "connectionLost", self._lost)
        with suppress(AttributeError, OSError):  # a socket of Unix has neither
            keep_alive(self.transport.getHandle())
        self._wait_for_headers()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - twisted's name
        self._received_bytes += len(data)
        if self._deadline is None and not self._handlingRequest:
            self._wait_for_headers()
        super().dataReceived(data)

    def allHeadersReceived(self) -> None:  # noqa: N802 - twisted's name
        self._received_bytes = 0
        self.connections.stop_waiting(self._address, self)
        self._set_deadline(connections.BODY_INTERVAL_S, self._check_body)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:  # noqa: N802 - twisted's name
        self._set_deadline(None)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:  # noqa: N802 - twisted's name
        if not self._is_lost:
            self.connections.wait(self._address, self, self.transport.abortConnection)
        super().requestDone(request)

    def _wait_for_headers(self) -> None:
        self.connections.wait(self._address, self, self.transport.abortConnection)
        self._set_deadline(connections.HEADERS_TIMEOUT_S, self._refuse)

    def _check_body(self) -> None:
        if self._received_bytes < MIN_BODY_BYTES_PER_S * connections.BODY_INTERVAL_S:
            self._refuse()
            return
        self._received_bytes = 0
        self._set_deadline(connections.BODY_INTERVAL_S, self._check_body)

    def _refuse(self) -> None:
        self._deadline = None
        self.transport.write(TOO_SLOW)
        self.loseConnection()

    def _set_deadline(self, seconds: float | None, act: Any = None) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.callLater(seconds, act)

    def _lost(self) -> None:
        """Forget the connection. (A WebSocket has its transport by now, and another protocol.)"""
        self._is_lost = True
        self._set_deadline(None)
        self.connections.stop_waiting(self._address, self)
        self.connections.remove(self._address)


def _call_before(target: Any, name: str, act: Callable[[], None]) -> None:
    """Have a method call `act` first, once."""
    method = getattr(target, name)

    def wrapped(*args: Any) -> Any:
        setattr(target, name, method)
        act()
        return method(*args)

    setattr(target, name, wrapped)
