"""Relays a client's request to a host, and reads the reply as it comes. For event loops.

There is no connection limit and no total timeout, since long replies are normal. None of the
client's headers is forwarded, since its cookie and key do not concern the model server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from aiohttp.resolver import ThreadedResolver
from multidict import CIMultiDict

from switcher.domain.servers import VIA, Server
from switcher.ollama import awaited, guard
from switcher.ollama.errors import BadAnswer, BrokeOff, CallCut, TimedOut, Unreachable
from switcher.ollama.hints import hint
from switcher.ollama.transport import transport_of

CONNECT_TIMEOUT_S = 3.0
NAME_LOOKUP_TIMEOUT_S = 2.0  # on top of it
# Between two reads. An unstreamed reply only comes when all of it has been generated.
SILENCE_TIMEOUT_S = 1800.0
MAX_REPLY_BYTES = 32_000_000  # bytes of a reply that is kept in memory
_JSON = "application/json"
_PIECE_BYTES = 1_000_000  # written at once

# Compressed replies could not be searched for the end of a stream or an error. All headers that
# aiohttp would add by itself are named, or it would build a table of them for each request.
_HEADERS = CIMultiDict(
    {
        "Content-Type": _JSON,
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "User-Agent": "switchboard",
        "Via": VIA,
    }
)


class _CheckedResolver(AbstractResolver):
    """Resolves names for aiohttp; raises AddressRefused if one of the addresses is not allowed."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            guard.check(result["host"], port)
        return found

    async def close(self) -> None:
        await self._resolver.close()


class _Connections:
    """A pool of the connections of one event loop, kept open between requests.

    A task of the loop closes them: a stopping server cancels all tasks of its loop, so it need not
    know about this pool.
    """

    def __init__(self) -> None:
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, resolver=_CheckedResolver(), socket_factory=guard.open_socket
            ),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=CONNECT_TIMEOUT_S + NAME_LOOKUP_TIMEOUT_S,
                sock_connect=CONNECT_TIMEOUT_S,
                sock_read=SILENCE_TIMEOUT_S,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        self.closer = asyncio.create_task(self._close_when_cancelled(), name="relay-connections")

    async def _close_when_cancelled(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await self.session.close()


_connections: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = WeakKeyDictionary()


def _session() -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    connections = _connections.get(loop)
    if connections is None or connections.closer.done():
        connections = _connections[loop] = _Connections()
    return connections.session


async def close() -> None:
    """Close the connections of the running event loop."""
    connections = _connections.pop(asyncio.get_running_loop(), None)
    if connections is not None:
        connections.closer.cancel()
        await asyncio.gather(connections.closer, return_exceptions=True)
        await connections.session.close()  # the task may not have begun yet


@dataclass(frozen=True, slots=True)
class Upstream:
    """A reply whose headers have arrived.

    Reading it raises BadAnswer if it is interrupted, TimedOut if nothing more comes.
    """

    status: int
    content_type: str
    _response: aiohttp.ClientResponse
    _url: str

    @property
    def media_type(self) -> str:
        """Return the content type without parameters, in lower case."""
        return self.content_type.split(";")[0].strip().lower()

    @property
    def streams(self) -> bool:
        """Return whether each part of the reply is useful by itself."""
        return self.media_type in {"text/event-stream", "application/x-ndjson"}

    @property
    def is_json(self) -> bool:
        """Return whether it is JSON or a stream of it, as all of Ollama's replies are."""
        return self.streams or self.media_type == _JSON

    def not_json_error(self) -> BadAnswer:
        """Return the error for a reply that should be JSON and is not."""
        text = f"The host answered {self.status} with something that is not JSON."
        return BadAnswer(text + hint(self.status, self._url))

    async def parts(self) -> AsyncGenerator[bytes]:
        """Yield the body's bytes as they arrive."""
        try:
            async for part in self._response.content.iter_any():
                yield part
        except TimeoutError as exc:
            raise _silent(self._url) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise BrokeOff(f"The answer of {self._url} broke off.") from exc

    async def read(self) -> bytes:
        """Return the whole body, of at most MAX_REPLY_BYTES."""
        parts, size = [], 0
        async for part in self.parts():
            parts.append(part)
            size += len(part)
            if size > MAX_REPLY_BYTES:
                raise BadAnswer(f"The answer of {self._url} is too long.")
        return b"".join(parts)


class SendPermit(Protocol):
    """Permission to write the request, checked once the connection is made.

    Connecting may take seconds, and the process may have been paused meanwhile.
    """

    def is_valid(self) -> bool:
        """Return whether to write the body; called once, just before."""

    def mark_sent(self) -> None:
        """Record that the body was written."""


class _GuardedPayload(aiohttp.BytesPayload):
    """A body that is written only if its permit is valid at that moment."""

    def __init__(self, body: bytes, permit: SendPermit) -> None:
        # BytesPayload's own constructor warns of large bodies, as it writes them in one piece.
        super(aiohttp.BytesPayload, self).__init__(body, content_type=_JSON)
        self._size = len(body)
        self._permit = permit
        self.is_withheld = False

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        if not self._permit.is_valid():
            self.is_withheld = True
            raise CallCut("The permit to send it has expired.")
        for begin in range(0, len(self._value), _PIECE_BYTES):
            await writer.write(self._value[begin : begin + _PIECE_BYTES])
        self._permit.mark_sent()


Body = bytes | AsyncIterator[bytes] | _GuardedPayload


@asynccontextmanager
async def ask(
    server: Server | str,
    method: str,
    path: str,
    body: bytes | AsyncIterator[bytes] = b"",
    *,
    permit: SendPermit | None = None,
    head_timeout_s: float = SILENCE_TIMEOUT_S,
    content_type: str = _JSON,
) -> AsyncIterator[Upstream]:
    """Send a request, and yield the reply once its head has come. No redirect is followed.

    Leaving the block before the whole reply was read closes the connection, which ends the host's
    work (fact 9).

    Raises Unreachable if no connection can be made, CallCut if the permit has expired once it is
    made, BrokeOff if the host closes the connection, TimedOut if no head comes within
    `head_timeout_s`, BadAnswer for a redirect.
    """
    server = Server.at(server)
    url = server.base_url.rstrip("/")
    payload: Body = body
    if permit is not None and isinstance(body, bytes):
        payload = _GuardedPayload(body, permit)
    try:
        async with asyncio.timeout(head_timeout_s):
            response = await _send(server, method, path, payload, content_type)
    except TimeoutError:
        raise TimedOut(f"The host did not begin to answer for {head_timeout_s:.0f} s.") from None
    awaited.answered(url)
    try:
        if 300 <= response.status < 400:
            raise BadAnswer(f"{url} answered {response.status}, a redirect: not Ollama.")
        content_type = response.headers.get("Content-Type", "application/json")
        yield Upstream(response.status, content_type, response, url)
    finally:
        if response.content.at_eof():
            response.release()
        else:
            response.close()


async def _send(
    server: Server, method: str, path: str, body: Body, content_type: str
) -> aiohttp.ClientResponse:
    transport, url = transport_of(server), server.base_url.rstrip("/")
    headers = _HEADERS
    if content_type != _JSON or transport.headers:
        headers = CIMultiDict(_HEADERS)
        headers["Content-Type"] = content_type
        headers.update(transport.headers)
    try:
        return await _session().request(
            method,
            url + path,
            data=body or None,
            headers=headers,
            allow_redirects=False,
            ssl=True if transport.tls is None else transport.tls,
            proxy=transport.proxy,
        )
    except aiohttp.ClientSSLError as exc:
        raise Unreachable(f"No trusted connection to {url}: check its certificate.") from exc
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
        raise Unreachable(f"No connection to {url}.") from exc
    except TimeoutError as exc:
        raise _silent(url) from exc
    except (aiohttp.ClientError, OSError) as exc:
        if isinstance(body, _GuardedPayload) and body.is_withheld:
            raise CallCut("It was not sent: its permit had expired.") from exc
        raise BrokeOff(f"{url} closed the connection before it had answered.") from exc


def _silent(url: str) -> TimedOut:
    return TimedOut(f"{url} sent nothing for {SILENCE_TIMEOUT_S:.0f} s.")
