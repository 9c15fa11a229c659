"""The server process: daphne with the background work, request limits and a clean shutdown.

Comments name the problems that were measured in daphne, where they are avoided.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import Server as DaphneServer
from daphne.server import twisted_loop
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import defer, reactor

from project.background import Background, Part
from project.base_path import without_base_path
from project.connections import (
    IDLE_TIMEOUT_S,
    Connections,
    max_connections,
    raise_file_limit,
)
from project.twisted_channel import BoundedChannel
from switcher.access import is_trusted_proxy
from switcher.gateway import body
from switcher.gateway.addresses import normalised, split_key, style_of
from switcher.gateway.response import to_json
from switcher.live import feed
from switcher.ollama import guard
from switcher.switching import waiting

log = logging.getLogger(__name__)

# For files of models (/api/blobs); the gateway's own limit may allow more. (Django itself limits
# forms and API calls to 2.5 MB.)
MIN_BODY_LIMIT_BYTES = 32 * 2**20
# A page sends nothing. The limit for a message also applies to what we send: a state with all hosts
# has to fit.
MAX_FRAME_BYTES = 4096
MAX_MESSAGE_BYTES = 8 * 2**20
SERVICE_RESTART = 1012
# How long a page may take to answer a close before its connection is aborted. Autobahn's default is
# 1 s, which txaio rounds down to a whole second of the clock: one page in thirty got only
# milliseconds, and saw a broken connection instead of the code.
CLOSE_TIMEOUT_S = 3

STALLED_AFTER_S = 300.0

# The steps of the shutdown, less than 10 s in all.
BACKGROUND_TIMEOUT_S = 6.5
RESPONSES_TIMEOUT_S = 0.5
CANCEL_TIMEOUT_S = 0.5
AT_END_TIMEOUT_S = 1.0
SHUTDOWN_TIMEOUT_S = 9.0


def max_body_bytes() -> int:
    """Return how many bytes a request's body may have."""
    return max(MIN_BODY_LIMIT_BYTES, body.max_bytes())


class Backpressure:
    """A Twisted producer, which Twisted pauses while the client has 64 kB left to read."""

    def __init__(self) -> None:
        self._may_send = asyncio.Event()
        self._may_send.set()

    async def wait(self) -> None:
        """Wait until there is room for more. Raises TimeoutError if the client has stopped reading
        for STALLED_AFTER_S."""
        if not self._may_send.is_set():
            await asyncio.wait_for(self._may_send.wait(), STALLED_AFTER_S)

    def pauseProducing(self) -> None:  # noqa: N802 - twisted's name
        self._may_send.clear()

    def resumeProducing(self) -> None:  # noqa: N802 - twisted's name
        self._may_send.set()

    stopProducing = resumeProducing  # noqa: N815 - twisted's name


class BoundedRequest(WebRequest):
    """A request with bounded memory. (Twisted limits the headers: 16 kB, 500 lines.)

    A body that is too large is refused while it arrives, where daphne would store all of it. A
    response waits until the client reads it, where daphne would keep a whole stream in memory.
    """

    _received = 0
    _refused = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backpressure = Backpressure()

    def handle_reply(self, message: dict[str, Any]) -> None:
        super().handle_reply(message)
        if message["type"] == "http.response.start" and self.channel is not None:
            self.registerProducer(self.backpressure, True)

    def handle_exception(self, exception: Exception) -> None:
        """Abort the connection of a response that has begun, so that the client sees that it is
        incomplete: HTTP/1.0 has no other sign. (Daphne would start a second response, which fails:
        the client would wait forever, and so would daphne's check for such failures.)"""
        if not self._response_started:
            super().handle_exception(exception)
        elif self.channel is not None:
            self.channel.transport.abortConnection()

    def finish(self) -> None:
        if self.producer and self.channel is not None:
            self.unregisterProducer()
        super().finish()

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - twisted's name
        super().gotLength(length)
        if length is not None and length > max_body_bytes():
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - twisted's name
        self._received += len(data)
        if self._received > max_body_bytes():
            self._refuse()
        if not self._refused:
            super().handleContentChunk(data)

    def process(self) -> Any:
        return None if self._refused else super().process()

    def _refuse(self) -> None:
        if self._refused:
            return
        self._refused = True
        error = body.too_large(max_body_bytes())
        path = self.channel._path.split(b"?")[0].decode("latin-1")  # `path` is set after the body
        _, asked = split_key(without_base_path({"path": path})["path"])
        text = to_json(error.body(style_of(normalised(asked))))
        self.channel.transport.write(
            b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
        )
        self.channel.loseConnection()


class BoundedFactory(HTTPFactory):
    """A factory of a bounded number of connections, whose requests are bounded too."""

    def __init__(self, server: DaphneServer) -> None:
        super().__init__(server)
        self.timeOut = IDLE_TIMEOUT_S
        self._connections = Connections(max_connections(raise_file_limit()), is_trusted_proxy)

    def protocol(self) -> BoundedChannel:
        channel = BoundedChannel()
        channel.connections = self._connections
        return channel

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - twisted's name
        """Return a protocol; None, which closes the connection, if there are too many."""
        if not self._connections.admit(getattr(addr, "host", "")):
            return None
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = BoundedRequest
        return protocol


class Server(DaphneServer):
    """Daphne's server with background parts, which start once it listens and stop before it.

    `announce` is called with the address once it listens. `at_end` is awaited once no request is
    left. If `run` could not listen, `failure` says why.
    """

    def __init__(
        self,
        *args: Any,
        parts: Callable[[], list[Part]] | None = None,
        announce: Callable[[str], object] | None = None,
        at_end: Callable[[], Awaitable[None]] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["websocket_max_message_size"] = MAX_MESSAGE_BYTES
        kwargs["websocket_max_frame_size"] = MAX_FRAME_BYTES
        # A caller may wait minutes for a switch: no time limit for a response.
        kwargs["http_timeout"] = None
        kwargs["server_name"] = "switchboard"
        super().__init__(*args, **kwargs)
        self.failure = ""
        self._make_parts = parts
        self._announce = announce
        self._at_end = at_end
        self._background: Background | None = None

    @property
    def http_factory(self) -> HTTPFactory:
        """Return a bounded factory, whatever `run` sets."""
        return self._http_factory

    @http_factory.setter
    def http_factory(self, _: HTTPFactory) -> None:
        self._http_factory = BoundedFactory(self)

    def run(self) -> None:
        """Serve until a signal arrives, or return at once if it cannot listen."""
        # Not earlier: a server that cannot listen must not touch a host.
        reactor.callWhenRunning(self._start_parts)
        super().run()
        if not self.abort_start:
            _end_tasks(twisted_loop)

    def _start_parts(self) -> None:
        self.ws_factory.setProtocolOptions(closeHandshakeTimeout=CLOSE_TIMEOUT_S)
        self._background = Background(self._make_parts() if self._make_parts else [])
        self._background.start()

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Send a part of the response, and return once the client has room for more."""
        await super().handle_reply(protocol, message)
        if message.get("more_body") and isinstance(protocol, BoundedRequest):
            try:
                await protocol.backpressure.wait()
            except TimeoutError:
                if protocol.channel is not None:
                    protocol.channel.transport.abortConnection()

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        host, number = self.listening_addresses[-1]
        guard.add_own_port(number)
        if self._announce is not None:
            shown = f"[{host}]" if ":" in host else host
            # It listens before the reactor has installed its signal handlers: a SIGTERM that
            # comes at once would kill the process. So the address is announced after that.
            reactor.callWhenRunning(self._announce, f"http://{shown}:{number}/")

    def listen_error(self, failure: Any) -> None:
        reason = getattr(failure.value, "socketError", None)
        self.failure = getattr(reason, "strerror", None) or failure.getErrorMessage()
        self.stop()

    def kill_all_applications(self) -> Any:
        """Shut down. The reactor calls this before it stops, and waits for the result."""
        exit_within(SHUTDOWN_TIMEOUT_S)
        done = defer.Deferred.fromFuture(
            asyncio.ensure_future(self._shut_down(), loop=twisted_loop)
        )
        done.addErrback(lambda failure: log.error("The shutdown failed: %s", failure))
        return done

    async def _shut_down(self) -> None:
        log.info("stopping", extra={"action": "stopping"})
        await self._stop_listening()
        self._close_sockets()
        feed.stop_all()
        if self._background is not None and not await self._background.stop(BACKGROUND_TIMEOUT_S):
            log.warning("not stopped in time; left to the next start", extra={"action": "cut"})
        waiting.stop_waiting()
        await self._wait_for_responses(RESPONSES_TIMEOUT_S)
        left = self._applications()
        for application in left:
            application.cancel()
        if left:
            await asyncio.wait(left, timeout=CANCEL_TIMEOUT_S)
        if self._at_end is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._at_end(), AT_END_TIMEOUT_S)
        log.info("stopped, %d connections were cut", len(left), extra={"action": "stopped"})

    async def _stop_listening(self) -> None:
        for listener in self.listeners:
            port = listener.result
            if hasattr(port, "stopListening"):
                await defer.maybeDeferred(port.stopListening).asFuture(twisted_loop)

    def _close_sockets(self) -> None:
        """Send 1012, service restart: pages connect again. (`sendClose` refuses that code.)"""
        for protocol in list(self.connections):
            if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(code=SERVICE_RESTART)

    async def _wait_for_responses(self, seconds: float) -> None:
        """Give callers that wait for a switch time to get their response."""
        until = twisted_loop.time() + seconds
        while self._applications(of=WebRequest) and twisted_loop.time() < until:
            await asyncio.sleep(0.02)

    def _applications(self, of: type = object) -> list[asyncio.Future[Any]]:
        """Return the running applications. (A request that was only half read has none yet.
        Daphne's own method then fails with a KeyError and stops no application at all.)"""
        known = [
            c.get("application_instance") for p, c in self.connections.items() if isinstance(p, of)
        ]
        return [a for a in known if a is not None and not a.done()]


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks: with one pending, CPython 3.11 crashes at exit (10 times of 10 with an open
    stream).
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_S))
    loop.run_until_complete(loop.shutdown_asyncgens())


def exit_within(seconds: float) -> None:
    """Make the process exit with code 0 within this time, even if something hangs.

    Python waits at exit for an executor's threads, one of which may hang, such as one that waits
    for a switch. The progress of interrupted work is in the database, and the next start continues
    it.
    """
    timer = threading.Timer(seconds, _exit_now)
    timer.daemon = True
    timer.start()


def _exit_now() -> None:
    log.info("work still running at exit was cut off", extra={"action": "cut"})
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
