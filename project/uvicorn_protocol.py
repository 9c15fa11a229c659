"""The gateway processes' connections, with the bounds of `project.connections`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cache
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from project import connections
from project.connections import (
    MIN_BODY_BYTES_PER_S,
    TOO_SLOW,
    Connections,
    keep_alive,
    max_connections,
    raise_file_limit,
)


@cache
def _connections() -> Connections:
    from switcher.access import is_trusted_proxy  # once the apps are loaded

    return Connections(max_connections(raise_file_limit()), is_trusted_proxy)


class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # chosen at run time
    """A connection whose requests have to arrive in time."""

    _deadline: asyncio.TimerHandle | None = None
    _reads_body = False
    _received_bytes = 0
    _is_admitted = False

    def connection_made(self, transport: Any) -> None:
        self._address = (transport.get_extra_info("peername") or ("",))[0]
        self._is_admitted = _connections().admit(self._address)
        super().connection_made(transport)
        if not self._is_admitted:
            transport.abort()
            return
        _connections().add(self._address)
        with suppress(OSError, AttributeError):  # not over TCP
            keep_alive(transport.get_extra_info("socket"))
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        super().data_received(data)
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            if self._deadline is None or self._reads_body:
                self._wait_for_headers()
        elif not cycle.more_body:
            self._stop()
        elif not self._reads_body:
            self._stop()
            self._reads_body, self._received_bytes = True, 0
            self._set_deadline(connections.BODY_INTERVAL_S, self._check_body)

    def on_response_complete(self) -> None:
        if self._is_admitted:
            _connections().wait(self._address, self, self.transport.abort)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_admitted:
            self._is_admitted = False
            self._stop()
            _connections().remove(self._address)
        super().connection_lost(exc)

    def _wait_for_headers(self) -> None:
        self._reads_body = False
        _connections().wait(self._address, self, self.transport.abort)
        self._set_deadline(connections.HEADERS_TIMEOUT_S, self._refuse)

    def _check_body(self) -> None:
        is_slow = self._received_bytes < MIN_BODY_BYTES_PER_S * connections.BODY_INTERVAL_S
        if is_slow and not self.flow.read_paused:  # paused: the host reads slowly
            self._refuse()
            return
        self._received_bytes = 0
        self._set_deadline(connections.BODY_INTERVAL_S, self._check_body)

    def _refuse(self) -> None:
        self.transport.write(TOO_SLOW)
        self.transport.close()

    def _stop(self) -> None:
        _connections().stop_waiting(self._address, self)
        self._reads_body = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _set_deadline(self, seconds: float, act: Any) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, act)
