"""One HTTP call with a deadline, a bound on its size, and a handle to cut it from outside.

`requests` cannot be told to stop waiting for an answer, and its timeouts are for each read, so a
server that drips bytes would hold a call for ever. Here each call keeps hold of its socket: the
deadline, or whoever holds the Call, shuts the socket down, and the waiting read ends at once.
A load is cancelled in just this way (fact 9).
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.util import Retry

from switcher.ollama import connecting
from switcher.ollama.deadlines import deadlines
from switcher.ollama.errors import BadAnswer, CallCut, OllamaError, TimedOut, Unreachable

CONNECT_S = 3.0
LONGEST_S = 24 * 3600.0  # a profile may ask for any number; a socket does not take them all
MAX_BYTES = 8_000_000  # a catalogue of thousands of models is some 2 MB
# Lists and objects in an answer, empty ones above all, take many times their bytes in memory.
MAX_PARTS = 100_000

_current = threading.local()


class Call:
    """A call under way, or several that belong together. `cut()` may come from any thread, before,
    during or after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socks: dict[int, socket.socket] = {}  # by the thread that waits on it
        self.was_cut = False
        self.timed_out = False
        self.connected = False  # it needed a new connection

    def hold(self, sock: socket.socket) -> None:
        with self._lock:
            self._socks[threading.get_ident()] = sock
            if self.was_cut:
                _shut(sock)

    def release(self) -> None:
        """This thread's part of it is over: its connection may serve another call by now."""
        with self._lock:
            self._socks.pop(threading.get_ident(), None)

    def cut(self) -> None:
        """End the call: whoever waits for its answer gets CallCut."""
        with self._lock:
            self._end()

    def expire(self) -> None:
        """The deadline's way of cutting: whoever waits gets TimedOut."""
        with self._lock:
            self.timed_out = not self.was_cut
            self._end()

    def _end(self) -> None:
        self.was_cut = True
        for sock in self._socks.values():
            _shut(sock)


def _shut(sock: socket.socket) -> None:
    try:
        # Not the method of a TLS socket: that one pulls its state away under the waiting read.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # it was closed already: nothing waits on it any more


class _HeldConnection(HTTPConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        call: Call | None = getattr(_current, "call", None)
        if call is not None and call.was_cut:
            raise ConnectionAbortedError("cut before it was sent")
        if self.sock is None:
            self.connect()
            if call is not None:
                call.connected = True
        if call is not None and self.sock is not None:
            call.hold(self.sock)
        super().request(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        """Like urllib3's own, but given up as soon as the call is cut."""
        call: Call | None = getattr(_current, "call", None)
        limit = self.timeout if isinstance(self.timeout, int | float) else CONNECT_S
        options = self.socket_options or ()
        try:
            return connecting.connect(
                self._dns_host, self.port, limit, options, lambda: call is not None and call.was_cut
            )
        except socket.gaierror as exc:
            raise NameResolutionError(self.host, self, exc) from exc
        except UnicodeError as exc:  # a label that is empty or too long
            raise LocationParseError(f"'{self.host}', label empty or too long") from exc
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, f"{self.host} took no connection in time.") from exc
        except OSError as exc:
            raise NewConnectionError(self, f"Failed to establish a new connection: {exc}") from exc


class _HeldSecureConnection(_HeldConnection, HTTPSConnection):
    # TLS takes the socket apart before it shakes hands: until that is over a cut reaches the
    # connection by its twin.
    _twin: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        call: Call | None = getattr(_current, "call", None)
        if call is not None:
            self._twin = sock.dup()
            call.hold(self._twin)
        return sock

    def connect(self) -> None:
        try:
            super().connect()
        finally:
            twin, self._twin = self._twin, None
            if twin is not None:
                twin.close()


class _HeldPool(HTTPConnectionPool):
    ConnectionCls = _HeldConnection


class _HeldSecurePool(HTTPSConnectionPool):
    ConnectionCls = _HeldSecureConnection  # type: ignore[assignment]


class _HoldingAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HeldPool, "https": _HeldSecurePool}


# A connection may be closed by the server just as it is used again. Reading twice harms nobody;
# nothing else is ever sent twice.
_READ_AGAIN = Retry(
    total=1,
    connect=0,
    read=1,
    redirect=0,
    status=0,
    other=0,
    allowed_methods={"GET"},
    respect_retry_after_header=False,
)


class Session(requests.Session):
    """A session whose calls can be cut. It trusts nothing of the environment: no proxies,
    no `.netrc` password sent to a model server."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        adapter = _HoldingAdapter(pool_connections=1, pool_maxsize=8, max_retries=_READ_AGAIN)
        self.mount("http://", adapter)
        self.mount("https://", adapter)
        self._readings: dict[str, requests.PreparedRequest] = {}

    def prepared(
        self, method: str, url: str, body: dict[str, Any] | None
    ) -> requests.PreparedRequest:
        """The request as it goes out. A reading is the same each time: it is prepared once, as that
        takes as long as sending it. Raises what requests raises of an address that is none."""
        if method != "GET":
            return self.prepare_request(requests.Request(method, url, json=body))
        made = self._readings.get(url)
        if made is None:
            made = self._readings[url] = self.prepare_request(requests.Request(method, url))
        return made

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Nowhere: even told to follow none, requests reads a redirect's whole body, however
        long, and fails at an address that it cannot parse."""
        return None


class Answer:
    """A whole answer: status and at most MAX_BYTES of body."""

    def __init__(self, status: int, content_type: str, body: bytes, date: str = "") -> None:
        self.status = status
        self.content_type = content_type
        self.body = body
        self.date = date  # by the server's clock, as HTTP writes it

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; BadAnswer for anything else."""
        if self.body.count(b"[") + self.body.count(b"{") > MAX_PARTS:
            raise BadAnswer("The server's answer has too many parts to be Ollama's.")
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            text = f"The server answered {self.status} with something that is not JSON."
            raise BadAnswer(text) from exc
        if not isinstance(value, dict):
            raise BadAnswer("The server answered with JSON of another shape.")
        return value


def send(
    session: Session,
    method: str,
    url: str,
    body: dict[str, Any] | None,
    timeout_s: float,
    call: Call,
) -> Answer:
    """Make the call and read its answer. No redirect is followed.

    Raises Unreachable, TimedOut (`timeout_s` is for all of it), CallCut, BadAnswer.
    """
    timeout_s = min(timeout_s, LONGEST_S)
    deadline = deadlines.set(timeout_s, call.expire)
    _current.call = call
    where = url.split("/api/")[0]
    try:
        answer = _answer(session, method, url, body, timeout_s)
    except OllamaError:
        _check_not_cut(call, where, timeout_s)
        raise
    # ValueError: what requests and urllib3 let through of an address that they cannot parse.
    except (requests.RequestException, HTTPError, OSError, ValueError) as exc:
        _check_not_cut(call, where, timeout_s, exc)
        raise _explain(exc, where) from exc
    finally:
        _current.call = None
        call.release()
        deadline.cancel()
    # A connection that is shut down looks like the end of headers, or of a body without a length.
    _check_not_cut(call, where, timeout_s)
    return answer


def _answer(
    session: Session, method: str, url: str, body: dict[str, Any] | None, timeout_s: float
) -> Answer:
    with session.send(
        session.prepared(method, url, body),
        # The deadline comes first; the socket's own limit is only its net.
        timeout=(min(CONNECT_S, timeout_s), timeout_s + 1),
        allow_redirects=False,
        stream=True,
    ) as response:
        if 300 <= response.status_code < 400:
            raise BadAnswer(f"The server answered {response.status_code}, a redirect: not Ollama.")
        content = _read(response)
        headers = response.headers
        return Answer(
            response.status_code, headers.get("Content-Type", ""), content, headers.get("Date", "")
        )


def _check_not_cut(
    call: Call, where: str, timeout_s: float, cause: Exception | None = None
) -> None:
    if call.timed_out:
        raise TimedOut(f"{where} did not answer within {timeout_s:.0f} s.") from cause
    if call.was_cut:
        raise CallCut("The call was ended from here.") from cause


def _read(response: requests.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    for part in response.iter_content(65536):
        size += len(part)
        if size > MAX_BYTES:
            raise BadAnswer(f"The server's answer passes {MAX_BYTES // 1_000_000} MB and was cut.")
        parts.append(part)
    return b"".join(parts)


_NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    LocationValueError,
)


def _explain(exc: Exception, where: str) -> Unreachable | BadAnswer:
    causes = list(_causes(exc))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(c, kinds) for c in causes)

    if has(ConnectionRefusedError):
        return Unreachable(f"Connection refused at {where}.")
    if has(socket.gaierror):
        return Unreachable(f"The name in {where} is not known.")
    if has(requests.ConnectTimeout):
        return Unreachable(f"No connection to {where} within {CONNECT_S:.0f} s.")
    if has(NewConnectionError):
        return Unreachable(f"No connection to {where}.")
    if has(requests.exceptions.SSLError):
        return Unreachable(f"No trusted connection to {where}: look at its certificate.")
    if has(requests.exceptions.ChunkedEncodingError):
        return BadAnswer(f"The answer of {where} broke off.")
    if has(*_NO_ADDRESS):
        return Unreachable(f"{where or 'Nothing'} is not an address.")
    if has(http.client.RemoteDisconnected) or not has(http.client.HTTPException, ValueError):
        return Unreachable(f"The connection to {where} broke.")
    if isinstance(exc, requests.RequestException | HTTPError):
        return BadAnswer(f"{where} answered with something that is not HTTP.")
    return Unreachable(f"{where} is not an address.")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The exception and all that led to it."""
    todo: list[BaseException | None] = [exc]
    seen: list[BaseException] = []
    while todo:
        one = todo.pop()
        if one is not None and one not in seen:
            seen.append(one)
            todo += [one.__cause__, one.__context__]
            yield one
