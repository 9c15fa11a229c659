"""HTTP calls for synchronous code, with a deadline, a bound on their size, and a way to cut them.

A blocking HTTP client cannot be told to stop waiting, and its timeouts are for each read, so a
server that drips bytes could hold a call for ever. Here all calls run on one event loop, in a
thread of its own: a deadline, or whoever holds the Call, cancels the coroutine, which closes the
connection. A load is cancelled in just this way (fact 9).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from switcher.ollama.errors import BadAnswer, CallCut, OllamaError, TimedOut
from switcher.ollama.http_errors import CONNECT_TIMEOUT_S, REQUEST_ERRORS, explain
from switcher.ollama.name_lookup import NameLookup

T = TypeVar("T")

MAX_BYTES = 8_000_000  # of an answer; a catalogue of thousands of models has some 2 MB
# Lists and objects in an answer. Empty ones take many times their bytes in memory.
MAX_CONTAINERS = 100_000
# Sessions reuse a connection however long it was idle: that it was closed tells of a restart.
_IDLE_TIMEOUT_S = 24 * 3600.0

_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "User-Agent": "switchboard",
}


class Call:
    """A call under way, or several that belong together.

    `connected` tells whether it needed a new connection.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.was_cut = False
        self.connected = False

    def cut(self) -> None:
        """End the call: whoever waits for its answer gets CallCut.

        From any thread, before, during or after the call.
        """
        with self._lock:
            self.was_cut = True
            for task in self._tasks:
                task.get_loop().call_soon_threadsafe(task.cancel)

    @contextmanager
    def attached(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """Let `cut` end this task while the block lasts. Raises CallCut."""
        with self._lock:
            self.check()
            self._tasks.add(task)
        try:
            yield
        finally:
            with self._lock:
                self._tasks.discard(task)

    def check(self) -> None:
        """Raise CallCut if the call was cut."""
        if self.was_cut:
            raise CallCut("The call was ended from here.")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `date` is the time by the server's clock, as HTTP writes it."""

    status: int
    body: bytes
    date: str = ""

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object. Raises BadAnswer."""
        if self.body.count(b"[") + self.body.count(b"{") > MAX_CONTAINERS:
            raise BadAnswer("The server's answer has too many parts to be Ollama's.")
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            text = f"The server answered {self.status} with something that is not JSON."
            raise BadAnswer(text) from exc
        if not isinstance(value, dict):
            raise BadAnswer("The server answered with JSON of another shape.")
        return value


class Session:
    """The connections of one client, kept open between its calls.

    Nothing of the environment is used: no proxy, no password from `.netrc`.
    """

    def __init__(self, trusted: ssl.SSLContext | None = None) -> None:
        """Trust the system's certificate authorities, or those of a context."""
        self._trusted = trusted
        self._http: aiohttp.ClientSession | None = None

    def send(
        self, method: str, url: str, body: dict[str, Any] | None, timeout_s: float, call: Call
    ) -> Answer:
        """Make a call and return its answer. No redirect is followed.

        Raises Unreachable, TimedOut (`timeout_s` is for all of it), CallCut, BadAnswer.
        """
        return _run(self._send(method, url, body, timeout_s, call))

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            _run(self._http.close())

    async def _send(
        self, method: str, url: str, body: dict[str, Any] | None, timeout_s: float, call: Call
    ) -> Answer:
        server = url.split("/api/")[0]
        task = asyncio.current_task()
        assert task is not None
        try:
            with call.attached(task):
                async with asyncio.timeout(timeout_s):
                    return await self._exchange(method, url, _to_json(body), call)
        except asyncio.CancelledError:
            call.check()
            raise
        except aiohttp.ConnectionTimeoutError as exc:
            raise explain(exc, server) from exc
        except TimeoutError as exc:
            raise TimedOut(f"{server} did not answer within {timeout_s:.0f} s.") from exc
        except REQUEST_ERRORS as exc:
            raise explain(exc, server) from exc

    async def _exchange(self, method: str, url: str, body: bytes | None, call: Call) -> Answer:
        if self._http is None:
            self._http = _open_session(self._trusted)
        response = await self._http.request(
            method,
            url,
            data=body,
            headers=_HEADERS,
            allow_redirects=False,
            trace_request_ctx=call,
        )
        try:
            if 300 <= response.status < 400:
                raise BadAnswer(f"The server answered {response.status}, a redirect: not Ollama.")
            content = await _read(response)
            return Answer(response.status, content, response.headers.get("Date", ""))
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()


def _to_json(body: dict[str, Any] | None) -> bytes | None:
    if body is None:
        return None
    try:
        return json.dumps(body, allow_nan=False).encode()
    except ValueError as exc:
        raise OllamaError("The request holds a number that JSON cannot express.") from exc


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_BYTES:
            raise BadAnswer(f"The server's answer passes {MAX_BYTES // 1_000_000} MB and was cut.")
        parts.append(part)
    return b"".join(parts)


def _open_session(trusted: ssl.SSLContext | None) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_note_connection)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            ssl=trusted or True,
            resolver=NameLookup(),
            use_dns_cache=False,
            keepalive_timeout=_IDLE_TIMEOUT_S,
        ),
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=[_send_changes_once],
        trace_configs=[trace],
    )


async def _note_connection(_: object, context: Any, __: object) -> None:
    context.trace_request_ctx.connected = True


async def _send_changes_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Let aiohttp repeat only reads if the connection breaks. It would also repeat a DELETE.

    A server may close an idle connection just as it is used again; reading twice harms nobody.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        if request.method == "GET":
            raise
        raise _ConnectionBroke from exc


class _ConnectionBroke(aiohttp.ClientError):
    pass


_loop_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _calls_loop() -> asyncio.AbstractEventLoop:
    """Return the loop that all calls run on; its thread begins with the first call."""
    global _loop
    with _loop_lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="ollama-calls", daemon=True).start()
        return _loop


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the calls' loop, and return its result.

    A call that was cut is waited for until it has really ended: nothing is sent afterwards.
    """
    return asyncio.run_coroutine_threadsafe(work, _calls_loop()).result()
