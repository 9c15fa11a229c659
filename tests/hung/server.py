"""A small Ollama over raw sockets that misbehaves on demand, for all calls or some."""

from __future__ import annotations

import json
import selectors
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.ollama.rawserver import Peer, RawServer, json_answer, raw_server

GB = 1_000_000_000
A, B = "a" * 64, "b" * 64
DISK = {"mid-a:latest": A, "mid-b:latest": B}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MAX_SENT = 100_000_000  # bytes of an endless body

Bad = Callable[[Peer], None]


def says(answer: bytes) -> Bad:
    """Return a fault that sends this answer and closes."""
    return lambda peer: peer.send(answer)


def body(text: bytes, status: str = "200 OK") -> Bad:
    return says(json_answer(text, status))


def silent(peer: Peer) -> None:
    peer.sock.settimeout(0.05)  # between two checks whether the test is over
    peer.hang()


def then_silent(part: bytes) -> Bad:
    """Return a fault that begins an answer and never continues."""

    def serve(peer: Peer) -> None:
        peer.send(part)
        silent(peer)

    return serve


def drips(head: bytes, part: bytes) -> Bad:
    """Return a fault that sends a byte every 50 ms, forever."""

    def serve(peer: Peer) -> None:
        peer.send(head)
        peer.server.dripping.set()
        while not peer.server.over.is_set():
            peer.drip(part, every_s=0.05)

    return serve


def pours(head: bytes, part: bytes) -> Bad:
    """Return a fault that repeats the same part as fast as it is read."""

    def serve(peer: Peer) -> None:
        peer.send(head)
        many, sent = part * max(1, 65536 // len(part)), 0
        while sent < MAX_SENT and not peer.server.over.is_set():
            peer.send(many)
            sent += len(many)
            peer.server.poured = sent  # type: ignore[attr-defined]

    return serve


def resets(peer: Peer) -> None:
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def closes(peer: Peer) -> None:
    """Close without an answer."""


def redirects(where: str) -> Bad:
    answer = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n"
    return says(answer.encode())


def rows(text: str) -> Bad:
    return body(f'{{"models": [{text}]}}'.encode())


def row(**values: Any) -> str:
    name = "mid-a:latest"
    return json.dumps({"name": name, "model": name, "digest": A, "size": GB, **values})


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LONG = OK + b"Content-Length: 100000000\r\n\r\n"
HTML = b"<html><body>It works!</body></html>"

# These do not end by themselves: only a deadline or a size limit ends them.
ENDLESS: dict[str, Bad] = {
    "accepts and never answers": silent,
    "half a header, then silence": then_silent(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "headers, then silence": then_silent(OK + b"Content-Length: 100\r\n\r\n"),
    "half a body, then silence": then_silent(OK + b'Content-Length: 100\r\n\r\n{"models": ['),
    "drips headers": drips(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "drips a body": drips(LONG, b" "),
    "drips a body without a length": drips(OK + b"\r\n", b" "),
    "drips chunks": drips(CHUNKED, b"1\r\n \r\n"),
    "says 100 Continue for ever": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}
# Bodies and headers of any length.
HUGE: dict[str, Bad] = {
    "100 MB of JSON": pours(LONG + b'{"models": [', b"{},"),
    "100 MB without a length": pours(OK + b"\r\n", b" "),
    "chunks without an end": pours(CHUNKED, b"400\r\n" + b"[" * 1024 + b"\r\n"),
    "one header without an end": pours(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "headers without an end": pours(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "a status line without an end": pours(b"", b"HTTP"),
    "a redirect with a body without an end": pours(
        b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b"x"
    ),
    "an error without an end": pours(b"HTTP/1.1 500 Internal Server Error\r\n\r\n", b"x"),
}
# Complete answers that are not Ollama's.
WRONG: dict[str, Bad] = {
    "closes at once": closes,
    "resets the connection": resets,
    "a length that is too long, then closes": says(OK + b"Content-Length: 100\r\n\r\n{"),
    "a body that is not there": says(OK + b"Content-Length: 0\r\n\r\n"),
    "HTML with 200": body(HTML),
    "HTML as it calls itself": says(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
        + f"Content-Length: {len(HTML)}\r\n\r\n".encode()
        + HTML
    ),
    "500 with JSON": body(b'{"error": "out of memory"}', "500 Internal Server Error"),
    "500 without JSON": body(b"oops", "500 Internal Server Error"),
    "500 without a body": body(b"", "500 Internal Server Error"),
    "503": body(b'{"error": "server busy, please try again."}', "503 Service Unavailable"),
    "an error that is no text": body(b'{"error": [[1]]}', "500 Internal Server Error"),
    "404 in plain text": body(b"404 page not found", "404 Not Found"),
    "nested deeply": body(b"[" * 90_000),
    "nested deeply in an object": body(b'{"models": ' + b'{"a":' * 90_000),
    "millions of parts": body(b'{"models": [' + b"{}," * 2_500_000 + b"{}]}"),
    "no HTTP": says(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
    "bytes at random": says(bytes(range(256)) * 40),
    "an unsupported HTTP version": says(b"HTTP/9.9 200 OK\r\n\r\n{}"),
    "an invalid status": says(b"HTTP/1.1 abc OK\r\n\r\n{}"),
    "invalid UTF-8": body(b'{"models": [{"name": "\xff\xfe"}]}'),
    "half a surrogate": rows(row(name="mid-\ud800")),
    "null": body(b"null"),
    "a list": body(b"[]"),
    "a number": body(b"17"),
    "no models": body(b'{"hello": 1}'),
    "models that are a string": body(b'{"models": "none"}'),
    "models that are null": rows("null, null"),
    "sizes that are not a number": rows(row().replace(f"{GB}", "NaN")),
    "sizes without an end": rows(row().replace(f"{GB}", "Infinity")),
    "sizes of 5000 digits": rows(row().replace(f"{GB}", "9" * 5000)),
    "sizes below nought": rows(row(size=-1)),
    "names of control characters": rows(row(name="a\x00b")),
    "a time in no year": rows(row(expires_at="99999-01-01T00:00:00Z")),
    "a redirect to itself": redirects("/api/ps"),
}
ALL = ENDLESS | HUGE | WRONG
# One of each kind, for tests that do not depend on the exact fault.
SOME = {
    name: ALL[name]
    for name in (
        "accepts and never answers",
        "drips a body",
        "100 MB of JSON",
        "HTML with 200",
        "500 without JSON",
        "no HTTP",
        "closes at once",
        "a redirect to itself",
    )
}


@dataclass
class Ollama:
    """A server: its models, the calls that it answers badly, and how."""

    loaded: dict[str, str] = field(default_factory=dict)  # name to digest
    disk: dict[str, str] = field(default_factory=lambda: dict(DISK))
    bad: Bad | None = None
    where: Callable[[str, str], bool] = lambda method, path: True
    asked: list[str] = field(default_factory=list)  # method and path
    misbehaved: int = 0  # how often it answered badly
    changed: Callable[[], None] = lambda: None  # after each load and unload
    raw: RawServer = field(init=False)

    @property
    def url(self) -> str:
        return self.raw.url

    @property
    def bytes_poured(self) -> int:
        return getattr(self.raw, "poured", 0)

    def serve(self, peer: Peer) -> None:
        while _readable(peer) and (request := peer.request()):
            line = request.split(b"\r\n", 1)[0].decode("latin-1")
            method, path, _ = line.split(" ")
            self.asked.append(f"{method} {path}")
            if self.bad is not None and self.where(method, path):
                self.misbehaved += 1
                self.bad(peer)
                return
            sent = json.loads(request.split(b"\r\n\r\n", 1)[1] or b"{}")
            try:
                peer.send(json_answer(json.dumps(self._answer(path, sent)).encode()))
            except KeyError as exc:
                missing = json.dumps({"error": f"model {exc} not found"}).encode()
                peer.send(json_answer(missing, "404 Not Found"))

    def _answer(self, path: str, sent: dict[str, Any]) -> Any:
        if path == "/api/ps":
            return {"models": [json.loads(row(name=n, digest=d)) for n, d in self.loaded.items()]}
        if path == "/api/tags":
            files = [{"name": n, "digest": d, "size": GB} for n, d in self.disk.items()]
            return {"models": [f | {"capabilities": ["completion"]} for f in files]}
        if path == "/api/generate":
            return self._generate(sent)
        if path == "/api/copy":
            self.disk[_full(sent["destination"])] = self.disk[_full(sent["source"])]
        if path == "/api/delete":
            del self.disk[_full(sent["model"])]
        return {"version": "0.24.0"}

    def _generate(self, sent: dict[str, Any]) -> Any:
        name = _full(sent["model"])
        if sent["keep_alive"] == 0:
            self.loaded.pop(name, None)
        else:
            self.loaded[name] = self.disk[name]
        self.changed()
        return {"model": name, "response": "Hi", "done": True, "eval_count": 2, "eval_duration": 9}


def _readable(peer: Peer) -> bool:
    """Wait for the next request until the test is over; from then on, allow for a slow client."""
    while not peer.server.over.is_set():
        if _is_readable(peer.sock, 0.05):
            peer.sock.settimeout(10)
            return True
    return False


def _is_readable(sock: socket.socket, within_s: float) -> bool:
    with selectors.DefaultSelector() as selector:  # select() takes no descriptors above 1023
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(within_s))


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


@contextmanager
def ollama(*loaded: str) -> Iterator[Ollama]:
    """Run a server while the block lasts, with these models loaded."""
    made = Ollama({name: DISK[name] for name in loaded})
    with raw_server(made.serve) as made.raw:
        yield made


@contextmanager
def full_backlog() -> Iterator[str]:
    """Yield an address that neither accepts nor refuses connections: its queue is full."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
                fillers.append(filler)
            yield f"http://127.0.0.1:{full.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()
