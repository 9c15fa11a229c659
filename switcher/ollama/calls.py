"""HTTP calls with a deadline, a bound on their size, and a way to cut them from another thread.

`requests` cannot be told to stop waiting for an answer, and its timeouts apply to each read, so a
server that drips bytes would block a call forever. urllib3 can shut down a response, but not a call
that is still connecting or waiting for the response's head. So each Call knows its socket here. At
the deadline, or when somebody cuts the call, the socket is shut down and the waiting read ends at
once. A load is cancelled in just this way (fact 9).
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.util import Retry

from switcher.domain.servers import VIA
from switcher.ollama import connecting
from switcher.ollama.deadlines import deadlines
from switcher.ollama.errors import BadAnswer, BrokeOff, CallCut, OllamaError, TimedOut, Unreachable
from switcher.ollama.transport import PLAIN, Transport

CONNECT_TIMEOUT_S = 3.0
MAX_TIMEOUT_S = 24 * 3600.0  # a profile may set any number, but a socket has a limit
MAX_BYTES = 8_000_000  # of an answer; a list of thousands of models has some 2 MB
# Lists and objects in an answer. Empty ones take many times their bytes in memory.
MAX_CONTAINERS = 100_000

# The call that each thread makes, and the address of its server.
_current = threading.local()


class Call:
    """A running call, or several that belong together.

    `connected` is set if a new connection was needed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: dict[int, socket.socket] = {}  # by the thread that waits on it
        self.was_cut = False
        self.timed_out = False
        self.connected = False

    def cut(self) -> None:
        """End the call; waiting for its answer raises CallCut.

        Thread-safe; may be called before, during or after the call.
        """
        with self._lock:
            self._shut_down()

    def expire(self) -> None:
        """End the call at its deadline; waiting for its answer raises TimedOut."""
        with self._lock:
            self.timed_out = not self.was_cut
            self._shut_down()

    def attach(self, sock: socket.socket) -> None:
        """Remember this socket, to shut it down when the call is cut, or at once if it has been."""
        with self._lock:
            self._sockets[threading.get_ident()] = sock
            if self.was_cut:
                _shut_down(sock)

    def detach(self) -> None:
        """Forget this thread's socket: its connection may soon serve another call."""
        with self._lock:
            self._sockets.pop(threading.get_ident(), None)

    def _shut_down(self) -> None:
        self.was_cut = True
        for sock in self._sockets.values():
            _shut_down(sock)


def _shut_down(sock: socket.socket) -> None:
    try:
        # Not a TLS socket's own method, which would remove its state during the waiting read.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # already closed: nothing waits on it any more


class _CuttableConnection(HTTPConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        call: Call = _current.call
        if call.was_cut:
            raise ConnectionAbortedError("cut before it was sent")
        if self.sock is None:
            self.connect()
            call.connected = True
        if self.sock is not None:
            call.attach(self.sock)
        super().request(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        """Connect as urllib3 does, but stop as soon as the call is cut."""
        call: Call = _current.call
        timeout_s = self.timeout if isinstance(self.timeout, int | float) else CONNECT_TIMEOUT_S
        options = self.socket_options or ()
        try:
            return connecting.connect(
                self._dns_host,
                self.port,
                timeout_s,
                options,
                lambda: call.was_cut,
            )
        except (OSError, UnicodeError) as exc:
            raise Unreachable(_why_not_connected(exc, _current.server)) from exc


def _why_not_connected(exc: Exception, server: str) -> str:
    if isinstance(exc, ConnectionRefusedError):
        return f"Connection refused at {server}."
    if isinstance(exc, socket.gaierror):
        return f"The name in {server} is not known."
    if isinstance(exc, TimeoutError):
        return f"No connection to {server} within {CONNECT_TIMEOUT_S:.0f} s."
    if isinstance(exc, UnicodeError):  # a label that is empty or too long
        return f"{server!r} is not an address."
    return f"No connection to {server}."


class _CuttableTLSConnection(_CuttableConnection, HTTPSConnection):
    # TLS detaches the socket before its handshake. Until that is over, a cut reaches the connection
    # through this duplicate.
    _duplicate: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        self._duplicate = sock.dup()
        _current.call.attach(self._duplicate)
        return sock

    def connect(self) -> None:
        try:
            super().connect()
        finally:
            duplicate, self._duplicate = self._duplicate, None
            if duplicate is not None:
                duplicate.close()


class _CuttablePool(HTTPConnectionPool):
    ConnectionCls = _CuttableConnection


class _CuttableTLSPool(HTTPSConnectionPool):
    ConnectionCls = _CuttableTLSConnection  # type: ignore[assignment]

    def _validate_conn(self, conn: Any) -> None:
        """Leave connecting to the request, which notes that it did. The context verifies; where it
        does not, the host's page says so, and no warning does for each request."""


_POOLS = {"http": _CuttablePool, "https": _CuttableTLSPool}


class _CuttableAdapter(HTTPAdapter):
    """Connects by connections that can be cut, also through a proxy, and with one TLS context."""

    def __init__(self, tls: ssl.SSLContext | None, **kwargs: Any) -> None:
        self._tls = tls
        super().__init__(**kwargs)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=self._tls, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Leave verification to the context, which `requests` would change."""
        host, _ = super().build_connection_pool_key_attributes(request, True)
        return host, {}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, for the same reason."""


# A server may close an idle connection just as it is used again. Reads are safe to repeat; nothing
# else is ever sent twice.
_RETRY_READS = Retry(
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
    """A session of `requests` whose calls can be cut.

    It takes nothing from the environment by itself: no password from `.netrc`, and a proxy only if
    the transport has one.
    """

    def __init__(self, transport: Transport = PLAIN) -> None:
        super().__init__()
        self.trust_env = False
        self.headers.update({"Via": VIA, **transport.headers})
        if transport.proxy:
            self.proxies = {"http": transport.proxy, "https": transport.proxy}
        adapter = _CuttableAdapter(
            transport.tls, pool_connections=1, pool_maxsize=8, max_retries=_RETRY_READS
        )
        self.mount("http://", adapter)
        self.mount("https://", adapter)
        self._reads: dict[str, requests.PreparedRequest] = {}

    def prepared(
        self, method: str, url: str, body: dict[str, Any] | None
    ) -> requests.PreparedRequest:
        """Return the request to send. Raises what `requests` raises for an impossible address.

        A read is always the same and prepared only once, since that takes as long as sending it.
        """
        if method != "GET":
            return self.prepare_request(requests.Request(method, url, json=body))
        request = self._reads.get(url)
        if request is None:
            request = self._reads[url] = self.prepare_request(requests.Request(method, url))
        return request

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return None. Even when told not to follow redirects, `requests` would read the whole body
        of one, however long, and fail if it cannot parse the address."""
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. `date` is the time by the server's clock, in HTTP's format."""

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
            raise BadAnswer("The server answered with JSON that is not an object.")
        return value


def send(
    session: Session,
    method: str,
    url: str,
    body: dict[str, Any] | None,
    timeout_s: float,
    call: Call,
) -> Answer:
    """Make a call and return its answer. Redirects are not followed.

    Raises Unreachable, TimedOut (`timeout_s` covers the whole call), CallCut, BadAnswer.
    """
    timeout_s = min(timeout_s, MAX_TIMEOUT_S)
    deadline = deadlines.set(timeout_s, call.expire)
    _current.call = call
    _current.server = server = url.split("/api/")[0]
    try:
        answer = _answer(session, method, url, body, timeout_s)
    except OllamaError:
        _check_not_cut(call, server, timeout_s)
        raise
    # ValueError: requests and urllib3 raise it for some addresses that they cannot parse.
    except (requests.RequestException, HTTPError, OSError, ValueError) as exc:
        _check_not_cut(call, server, timeout_s, exc)
        raise _explain(exc, server) from exc
    finally:
        _current.call = None
        call.detach()
        deadline.cancel()
    # A shut-down connection looks like the end of the headers, or of a body without a length.
    _check_not_cut(call, server, timeout_s)
    return answer


def _answer(
    session: Session, method: str, url: str, body: dict[str, Any] | None, timeout_s: float
) -> Answer:
    with session.send(
        session.prepared(method, url, body),
        proxies=session.proxies,
        # The deadline comes first; the socket's own timeout is a second safeguard.
        timeout=(min(CONNECT_TIMEOUT_S, timeout_s), timeout_s + 1),
        allow_redirects=False,
        stream=True,
    ) as response:
        if 300 <= response.status_code < 400:
            raise BadAnswer(f"The server answered {response.status_code}, a redirect: not Ollama.")
        return Answer(response.status_code, _read(response), response.headers.get("Date", ""))


def _check_not_cut(
    call: Call, server: str, timeout_s: float, cause: Exception | None = None
) -> None:
    if call.timed_out:
        raise TimedOut(f"{server} did not answer within {timeout_s:.0f} s.") from cause
    if call.was_cut:
        raise CallCut("The call was cut.") from cause


def _read(response: requests.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    for part in response.iter_content(65536):
        size += len(part)
        if size > MAX_BYTES:
            raise BadAnswer(f"The server's answer exceeds {MAX_BYTES // 1_000_000} MB and was cut.")
        parts.append(part)
    return b"".join(parts)


_NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    LocationValueError,
)


def _explain(exc: Exception, server: str) -> Unreachable | BadAnswer:
    causes = list(_causes(exc))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(c, kinds) for c in causes)

    if has(requests.exceptions.SSLError):
        return Unreachable(f"No trusted connection to {server}: check its certificate.")
    if has(requests.exceptions.ChunkedEncodingError):
        return BrokeOff(f"The answer of {server} broke off.")
    if has(*_NO_ADDRESS):
        return Unreachable(f"{server!r} is not an address.")
    if has(http.client.RemoteDisconnected) or not has(http.client.HTTPException, ValueError):
        return Unreachable(f"The connection to {server} broke.")
    if isinstance(exc, requests.RequestException | HTTPError):
        return BadAnswer(f"{server} answered with something that is not HTTP.")
    return Unreachable(f"{server!r} is not an address.")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exception and its causes."""
    todo: list[BaseException | None] = [exc]
    seen: list[BaseException] = []
    while todo:
        one = todo.pop()
        if one is not None and one not in seen:
            seen.append(one)
            todo += [one.__cause__, one.__context__]
            yield one
