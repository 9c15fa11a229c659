"""A server on loopback that misbehaves as a test wants: each connection is handed to a function, in
a thread of its own."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.until import PATIENCE_S

Serve = Callable[["Peer"], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Peer:
    """One accepted connection, seen from the server."""

    def __init__(self, server: RawServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number  # 1 for the first connection of this server
        self._left = b""

    def request(self) -> bytes:
        """Read one whole request; return nothing if the client has gone."""
        data = self._left
        while b"\r\n\r\n" not in data:
            part = self.sock.recv(65536)
            if not part:
                return b""
            data += part
        head, _, rest = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(rest) < length:
            rest += self.sock.recv(65536)
        self._left = rest[length:]
        whole = head + b"\r\n\r\n" + rest[:length]
        self.server.requests.append(whole)
        self.server.asked.set()
        return whole

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, every_s: float = 0.02) -> None:
        """Send byte by byte, until the client or the test has had enough."""
        for n in range(len(data)):
            self.send(data[n : n + 1])
            if n == 30:
                self.server.dripping.set()
            if self.server.over.wait(every_s):
                return

    def hang(self) -> None:
        """Send nothing until the client goes, and tell the test that it went."""
        self.server.dripping.set()
        while not self.server.over.is_set():
            try:
                if not self.sock.recv(65536):
                    self.server.client_went.set()
                    return
            except TimeoutError:
                continue
            except OSError:
                self.server.client_went.set()
                return


class RawServer:
    def __init__(self, serve: Serve, tls: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._tls = tls
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = threading.Event()
        self.dripping = threading.Event()  # in the middle of an answer
        self.client_went = threading.Event()
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        while not self.over.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            thread = threading.Thread(target=self._one, args=(sock, self.connections))
            self._threads.append(thread)
            thread.start()
        self._listener.close()

    def _one(self, sock: socket.socket, number: int) -> None:
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            sock.settimeout(0.05)
            self._serve(Peer(self, sock, number))
        except OSError:
            self.client_went.set()
        finally:
            sock.close()

    def close(self, accepting: threading.Thread) -> None:
        self.over.set()
        accepting.join(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)


@contextmanager
def raw_server(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    server = RawServer(serve, tls)
    accepting = threading.Thread(target=server.run)
    accepting.start()
    try:
        yield server
    finally:
        server.close(accepting)


def answering(*answers: bytes) -> Serve:
    """Answer the requests of each connection with these, one after the other, then close."""

    def serve(peer: Peer) -> None:
        for answer in answers:
            if not peer.request():
                return
            peer.send(answer)

    return serve


def json_answer(body: bytes, status: str = "200 OK", extra: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n".encode()
    return head + extra + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
