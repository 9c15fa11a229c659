"""One HTTP call with a deadline, a bound on its size, and a handle to cut it from outside.

`requests` cannot be told to stop waiting for an answer, and its timeouts are for each read, so a
server that drips bytes would hold a call for ever. Here each call keeps hold of its socket: the
deadline, or whoever holds the Call, shuts the socket down, and the waiting read ends at once.
A load is cancelled in just this way (fact 9).
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from switcher.ollama.errors import BadAnswer, CallCut, TimedOut, Unreachable

CONNECT_S = 3.0
MOST_BYTES = 8_000_000  # a catalogue of thousands of models is some 2 MB

_current = threading.local()


class Call:
    """A call under way. `cut()` may come from any thread, before, during or after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self.was_cut = False
        self.timed_out = False

    def hold(self, sock: socket.socket) -> None:
        with self._lock:
            self._sock = sock
            if self.was_cut:
                _shut(sock)

    def cut(self) -> None:
        """End the call: whoever waits for its answer gets CallCut."""
        with self._lock:
            self.was_cut = True
            if self._sock is not None:
                _shut(self._sock)

    def expire(self) -> None:
        """The deadline's way of cutting: whoever waits gets TimedOut."""
        self.timed_out = True
        self.cut()


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it was closed already: nothing waits on it any more


class _HeldConnection(HTTPConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        self.connect() if self.sock is None else None
        call: Call | None = getattr(_current, "call", None)
        if call is not None and self.sock is not None:
            call.hold(self.sock)
        super().request(*args, **kwargs)


class _HeldSecureConnection(_HeldConnection, HTTPSConnection):
    pass


class _HeldPool(HTTPConnectionPool):
    ConnectionCls = _HeldConnection


class _HeldSecurePool(HTTPSConnectionPool):
    ConnectionCls = _HeldSecureConnection  # type: ignore[assignment]


class _HoldingAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HeldPool, "https": _HeldSecurePool}


def new_session() -> requests.Session:
    """A session whose calls can be cut. It trusts nothing of the environment: no proxies,
    no `.netrc` password sent to a model server."""
    session = requests.Session()
    session.trust_env = False
    adapter = _HoldingAdapter(pool_connections=1, pool_maxsize=8, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class Answer:
    """A whole answer: status and at most MOST_BYTES of body."""

    def __init__(self, status: int, content_type: str, body: bytes) -> None:
        self.status = status
        self.content_type = content_type
        self.body = body

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; BadAnswer for anything else."""
        try:
            value = json.loads(self.body)
        except ValueError as exc:
            text = f"The server answered {self.status} with something that is not JSON."
            raise BadAnswer(text) from exc
        if not isinstance(value, dict):
            raise BadAnswer("The server answered with JSON of another shape.")
        return value


def send(
    session: requests.Session,
    method: str,
    url: str,
    body: dict[str, Any] | None,
    timeout_s: float,
    call: Call,
) -> Answer:
    """Make the call and read its answer. No redirect is followed.

    Raises Unreachable, TimedOut (`timeout_s` is for all of it), CallCut, BadAnswer.
    """
    timer = threading.Timer(timeout_s, call.expire)
    timer.daemon = True
    timer.start()
    _current.call = call
    try:
        with session.request(
            method,
            url,
            json=body,
            timeout=(min(CONNECT_S, timeout_s), timeout_s),
            allow_redirects=False,
            stream=True,
        ) as response:
            if 300 <= response.status_code < 400:
                raise BadAnswer(
                    f"The server answered {response.status_code}, a redirect: not Ollama."
                )
            content = _read(response)
            return Answer(response.status_code, response.headers.get("Content-Type", ""), content)
    except requests.RequestException as exc:
        raise _explain(exc, url, timeout_s, call) from exc
    finally:
        _current.call = None
        timer.cancel()


def _read(response: requests.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    for part in response.iter_content(65536):
        size += len(part)
        if size > MOST_BYTES:
            raise BadAnswer(f"The server's answer passes {MOST_BYTES // 1_000_000} MB and was cut.")
        parts.append(part)
    return b"".join(parts)


def _explain(
    exc: requests.RequestException, url: str, timeout_s: float, call: Call
) -> Unreachable | TimedOut | CallCut | BadAnswer:
    where = url.split("/api/")[0]
    if call.timed_out:
        return TimedOut(f"{where} did not answer within {timeout_s:.0f} s.")
    if call.was_cut:
        return CallCut("The call was ended from here.")
    if isinstance(exc, requests.ConnectTimeout):
        return Unreachable(f"No connection to {where} within {CONNECT_S:.0f} s.")
    if isinstance(exc, requests.Timeout):
        return TimedOut(f"{where} did not answer within {timeout_s:.0f} s.")
    if "refused" in str(exc):
        return Unreachable(f"Connection refused at {where}.")
    if isinstance(exc, requests.exceptions.ChunkedEncodingError):
        return BadAnswer(f"The answer of {where} broke off.")
    if "Name or service" in str(exc) or "resolve" in str(exc):
        return Unreachable(f"The name in {where} is not known.")
    if isinstance(exc, requests.ConnectionError):
        return Unreachable(f"The connection to {where} broke.")
    return BadAnswer(f"{where} answered with something that is not HTTP.")
