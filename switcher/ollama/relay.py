"""A request of a client passed on to a host, and its answer read as it comes. For event loops.

No limit of connections and no total timeout: a long answer is no fault. Nothing of the client's
headers goes on: neither its cookie nor its key is the model server's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from switcher.ollama.errors import BadAnswer, BrokeOff, CallCut, TimedOut, Unreachable

CONNECT_S = 3.0
NAME_S = 2.0  # more, for a name server
# Nothing at all came for so long. An answer that is not streamed comes after all of it was made.
SILENT_S = 1800.0
MAX_BYTES = 32_000_000  # of an answer that is kept whole

_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, _Session] = WeakKeyDictionary()


# What is compressed cannot be looked into: neither the end of a stream nor an error. All that
# aiohttp would add by itself is named: else it makes a table of that for each request.
_HEADERS = CIMultiDict(
    {
        "Content-Type": "application/json",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "User-Agent": "switchboard",
    }
)


class _Session:
    """The connections of one loop, kept open between requests. A task of its own closes them: at
    its end a server cancels all tasks of its loop, so that nobody has to know of this one."""

    def __init__(self) -> None:
        self.client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=CONNECT_S + NAME_S,
                sock_connect=CONNECT_S,
                sock_read=SILENT_S,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        self.keeper = asyncio.create_task(self._keep(), name="relay-connections")

    async def _keep(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await self.client.close()


def _session() -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.keeper.done():
        session = _sessions[loop] = _Session()
    return session.client


async def close() -> None:
    """Close this loop's connections."""
    session = _sessions.pop(asyncio.get_running_loop(), None)
    if session is not None:
        session.keeper.cancel()
        await asyncio.gather(session.keeper, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Upstream:
    """An answer whose headers have come. Both readers raise BadAnswer if it breaks off, TimedOut
    if nothing more comes."""

    status: int
    content_type: str
    _response: aiohttp.ClientResponse
    _where: str

    @property
    def media_type(self) -> str:
        return self.content_type.split(";")[0].strip().lower()

    @property
    def streams(self) -> bool:
        """Whether its parts mean something one by one."""
        return self.media_type in {"text/event-stream", "application/x-ndjson"}

    async def parts(self) -> AsyncGenerator[bytes]:
        """Its bytes as they come, however many; nothing waits for more."""
        try:
            async for part in self._response.content.iter_any():
                yield part
        except TimeoutError as exc:
            raise _silent(self._where) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise BrokeOff(f"The answer of {self._where} broke off.") from exc

    async def whole(self) -> bytes:
        """All of it."""
        parts, size = [], 0
        async for part in self.parts():
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise BadAnswer(f"The answer of {self._where} is too long.")
        return b"".join(parts)


class SendPermit(Protocol):
    """Whether a request may still be written, which is asked when its connection is made: that
    takes seconds at times, and the process may have been paused."""

    def holds(self) -> bool:
        """Asked once, just before it is written."""

    def used(self) -> None:
        """Told once it is written."""


class _GuardedPayload(aiohttp.BytesPayload):
    """A body that is written while there is leave."""

    def __init__(self, body: bytes, leave: SendPermit) -> None:
        super().__init__(body)
        self._leave = leave
        self.withheld = False

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        if not self._leave.holds():
            self.withheld = True
            raise CallCut("The leave to write it has ended.")
        await super().write_with_length(writer, content_length)
        self._leave.used()


Body = bytes | AsyncIterator[bytes]


@asynccontextmanager
async def ask(
    base_url: str,
    method: str,
    path: str,
    body: Body = b"",
    *,
    leave: SendPermit | None = None,
    head_s: float = SILENT_S,
) -> AsyncIterator[Upstream]:
    """Ask a host; leaving the block closes the connection unless all was read, and a closed
    connection ends the host's work (fact 9).

    Raises Unreachable before a connection, CallCut where there was no leave to write by then,
    BadAnswer or TimedOut after it, be it that nothing comes or no head of an answer in `head_s`.
    No redirect is followed.
    """
    where = base_url.rstrip("/")
    letter = _GuardedPayload(body, leave) if leave is not None and isinstance(body, bytes) else body
    try:
        async with asyncio.timeout(head_s):
            response = await _send(where, method, path, letter)
    except TimeoutError:
        raise TimedOut(f"The host did not begin to answer for {head_s:.0f} s.") from None
    try:
        if 300 <= response.status < 400:
            raise BadAnswer(f"{where} answered {response.status}, a redirect: not Ollama.")
        kind = response.headers.get("Content-Type", "application/json")
        yield Upstream(response.status, kind, response, where)
    finally:
        if response.content.at_eof():
            response.release()
        else:
            response.close()


async def _send(
    where: str, method: str, path: str, body: Body | _GuardedPayload
) -> aiohttp.ClientResponse:
    try:
        return await _session().request(
            method, where + path, data=body or None, headers=_HEADERS, allow_redirects=False
        )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
        raise Unreachable(f"No connection to {where}.") from exc
    except TimeoutError as exc:
        raise _silent(where) from exc
    except (aiohttp.ClientError, OSError) as exc:
        if isinstance(body, _GuardedPayload) and body.withheld:
            raise CallCut("It was not written: there was no leave any more.") from exc
        raise BrokeOff(f"{where} ended the connection before it had answered.") from exc


def _silent(where: str) -> TimedOut:
    return TimedOut(f"{where} said nothing for {SILENT_S:.0f} s.")
