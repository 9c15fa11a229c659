"""The server process: daphne with the background work, and an end that is clean.

What daphne leaves to do was measured; each trap is named where it is met.
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
from switcher.live import feed
from switcher.switching import waiting

log = logging.getLogger(__name__)

# A chat with a few pictures in it. Django itself reads 2.5 MB at most (of forms and API calls).
MAX_BODY_BYTES = 32 * 2**20
# A page sends nothing. The limit for a message holds for what we send, too: a state with every host
# in it has to fit.
MAX_FRAME_BYTES = 4096
MAX_MESSAGE_BYTES = 8 * 2**20
SERVICE_RESTART = 1012
# The time that a page gets to answer a close before its connection is aborted. Autobahn asks for
# 1 s, which txaio rounds down to a whole second of the clock: one in thirty pages got some
# milliseconds, and saw a broken line instead of the code.
CLOSE_ANSWER_S = 3

# The end, step by step; all in all less than 10 s.
GRACE_S = 6.5
LAST_ANSWERS_S = 0.5
LEFTOVERS_S = 0.5
LAST_WORDS_S = 1.0
GIVE_UP_S = 9.0


class Flow:
    """Whether the client takes what is sent: twisted says stop at 64 kB that wait, and go on."""

    def __init__(self) -> None:
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    async def wait(self) -> None:
        await self._goes_on.wait()

    def pauseProducing(self) -> None:  # noqa: N802 - twisted's name
        self._goes_on.clear()

    def resumeProducing(self) -> None:  # noqa: N802 - twisted's name
        self._goes_on.set()

    def stopProducing(self) -> None:  # noqa: N802 - twisted's name
        self._goes_on.set()


class BoundedRequest(WebRequest):
    """Refuses a body that is too large while it comes: daphne would store all of it, and then
    hand it on in memory. (The headers are bounded by twisted: 16 kB, 500 lines.) And knows when a
    client does not take its answer: daphne would keep all of a stream in memory."""

    _received = 0
    _refused = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flow = Flow()

    def handle_reply(self, message: dict[str, Any]) -> None:
        super().handle_reply(message)
        if message["type"] == "http.response.start" and self.channel is not None:
            self.registerProducer(self.flow, True)

    def handle_exception(self, exception: Exception) -> None:
        """An answer that has begun and cannot go on is cut off, not only ended, so that each client
        sees that it is not whole: HTTP/1.0 has no other sign. Daphne would begin another answer,
        which fails: the client would wait for ever, and the check that has found it would never run
        again."""
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
        if length is not None and length > MAX_BODY_BYTES:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - twisted's name
        self._received += len(data)
        if self._received > MAX_BODY_BYTES:
            self._refuse()
        if not self._refused:
            super().handleContentChunk(data)

    def process(self) -> Any:
        return None if self._refused else super().process()

    def _refuse(self) -> None:
        if self._refused:
            return
        self._refused = True
        text = b"The body is larger than %d bytes.\n" % MAX_BODY_BYTES
        self.channel.transport.write(
            b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n"
            b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
        )
        self.channel.loseConnection()


class BoundedFactory(HTTPFactory):
    """Makes connections whose requests are bounded."""

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - twisted's name
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = BoundedRequest
        return protocol


class Server(DaphneServer):
    """Daphne's server, with parts beside it that start when it listens and end before it does.

    `announce` gets the address once it listens. `at_end` is awaited once no request is left. If
    `run` could not listen, `failure` says why.
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
        # A switch that is waited for answers after minutes: no time limit for an answer.
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
        """The one that `run` makes, replaced by one that bounds."""
        return self._http_factory

    @http_factory.setter
    def http_factory(self, _: HTTPFactory) -> None:
        self._http_factory = BoundedFactory(self)

    def run(self) -> None:
        """Serve until a signal ends it, or until it finds that it cannot listen."""
        # Not before: a server that cannot listen must not touch a host.
        reactor.callWhenRunning(self._start_parts)
        super().run()
        if not self.abort_start:
            _end_tasks(twisted_loop)

    def _start_parts(self) -> None:
        self.ws_factory.setProtocolOptions(closeHandshakeTimeout=CLOSE_ANSWER_S)
        self._background = Background(self._make_parts() if self._make_parts else [])
        self._background.start()

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Send, and return once there is room for more."""
        await super().handle_reply(protocol, message)
        if message.get("more_body") and isinstance(protocol, BoundedRequest):
            await protocol.flow.wait()

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        if self._announce is not None:
            host, number = self.listening_addresses[-1]
            shown = f"[{host}]" if ":" in host else host
            # It listens before the reactor has put in its signal handlers: who hears of the
            # address may send a SIGTERM at once, and that would kill the process.
            reactor.callWhenRunning(self._announce, f"http://{shown}:{number}/")

    def listen_error(self, failure: Any) -> None:
        reason = getattr(failure.value, "socketError", None)
        self.failure = getattr(reason, "strerror", None) or failure.getErrorMessage()
        self.stop()

    def kill_all_applications(self) -> Any:
        """Called by the reactor before it ends, which waits for what this returns."""
        exit_within(GIVE_UP_S)
        ended = defer.Deferred.fromFuture(asyncio.ensure_future(self._end(), loop=twisted_loop))
        ended.addErrback(lambda failure: log.error("The end went wrong: %s", failure))
        return ended

    async def _end(self) -> None:
        log.info("stopping", extra={"action": "stopping"})
        await self._stop_listening()
        self._close_sockets()
        feed.stop_all()
        if self._background is not None and not await self._background.stop(GRACE_S):
            log.warning("not ended in time, left to the next start", extra={"action": "cut"})
        waiting.release_waiters()
        await self._let_answer(LAST_ANSWERS_S)
        left = self._applications()
        for application in left:
            application.cancel()
        if left:
            await asyncio.wait(left, timeout=LEFTOVERS_S)
        if self._at_end is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._at_end(), LAST_WORDS_S)
        log.info("stopped, %d connections were cut", len(left), extra={"action": "stopped"})

    async def _stop_listening(self) -> None:
        for listener in self.listeners:
            port = listener.result
            if hasattr(port, "stopListening"):
                await defer.maybeDeferred(port.stopListening).asFuture(twisted_loop)

    def _close_sockets(self) -> None:
        """1012, service restart: pages come again at once. `sendClose` refuses that code."""
        for protocol in list(self.connections):
            if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(code=SERVICE_RESTART)

    async def _let_answer(self, seconds: float) -> None:
        """Who waited for the switch that has just ended, or was handed over, gets the answer."""
        until = twisted_loop.time() + seconds
        while self._applications(of=WebRequest) and twisted_loop.time() < until:
            await asyncio.sleep(0.02)

    def _applications(self, of: type = object) -> list[asyncio.Future[Any]]:
        """What is still at work. A request that was half read has no application yet: the stock
        method fails with a KeyError on it, and then nothing at all is ended."""
        known = [
            c.get("application_instance") for p, c in self.connections.items() if isinstance(p, of)
        ]
        return [a for a in known if a is not None and not a.done()]


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """CPython 3.11 crashes at exit where a task is pending (10 of 10 with an open stream)."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=LEFTOVERS_S))
    loop.run_until_complete(loop.shutdown_asyncgens())


def exit_within(seconds: float) -> None:
    """Whatever hangs, the process has ended by then, with code 0.

    What may hang is a thread of an executor, such as one that waits for a switch: Python joins
    those at its exit. What is cut is in the database as far as it came; the next start goes on.
    """
    timer = threading.Timer(seconds, _exit_now)
    timer.daemon = True
    timer.start()


def _exit_now() -> None:
    log.info("not waited for any longer", extra={"action": "cut"})
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
