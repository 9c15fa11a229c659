"""HTTP calls to servers that misbehave, over real sockets on loopback."""

from __future__ import annotations

import gc
import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from switcher.domain.specs import Spec
from switcher.ollama import calls
from switcher.ollama.calls import Answer, Call
from switcher.ollama.client import Client
from switcher.ollama.errors import BadAnswer, CallCut, OllamaError, TimedOut, Unreachable
from switcher.ollama.transport import Transport
from tests.ollama.rawserver import OK, Peer, Serve, answering, json_answer, raw_server
from tests.until import PATIENCE_S

NEVER_S = 3600.0  # a deadline that no test lives to see


def send(
    url: str,
    timeout_s: float = 5.0,
    call: Call | None = None,
    body: dict[str, Any] | None = None,
    session: Any = None,
) -> Answer:
    own = session or calls.Session()
    try:
        method = "POST" if body is not None else "GET"
        return calls.send(own, method, url, body, timeout_s, call or Call())
    finally:
        if session is None:
            own.close()


def hang(peer: Peer) -> None:
    peer.request()
    peer.hang()


def drip_headers(peer: Peer) -> None:
    peer.request()
    peer.drip(b"HTTP/1.1 200 OK\r\n" + b"X-Slow: " + b"a" * 60_000)


def drip_header_lines(peer: Peer) -> None:
    peer.request()
    peer.drip(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000)


def drip_body(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    peer.drip(b" " * 100_000)


def drip_body_until_closed(peer: Peer) -> None:
    """Without a length, the end of the connection is the end of the body."""
    peer.request()
    peer.send(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"done": true}')
    peer.drip(b" " * 100_000)


def drip_chunks(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for n in range(10_000):
        peer.send(b"1\r\n \r\n")
        if n == 5:
            peer.server.dripping.set()
        if peer.server.over.wait(0.02):
            return


SLOW = [hang, drip_headers, drip_header_lines, drip_body, drip_body_until_closed, drip_chunks]


@pytest.mark.parametrize("serve", SLOW)
def test_a_deadline_covers_the_whole_call_however_slow_its_parts(serve: Serve) -> None:
    with raw_server(serve) as server:
        with pytest.raises(TimedOut, match="did not answer within"):
            send(server.url + "/api/ps", timeout_s=0.3)


@pytest.mark.parametrize("serve", SLOW)
def test_a_cut_from_another_thread_ends_the_wait(serve: Serve) -> None:
    with raw_server(serve) as server, ThreadPoolExecutor(1) as pool:
        call = Call()
        waiting = pool.submit(send, server.url + "/api/ps", NEVER_S, call)
        assert server.dripping.wait(PATIENCE_S)
        call.cut()
        with pytest.raises(CallCut):
            waiting.result(PATIENCE_S)


@pytest.mark.fact(9)
def test_a_cut_closes_the_connection_so_that_the_server_aborts_the_load() -> None:
    with raw_server(hang) as server, ThreadPoolExecutor(1) as pool:
        call = Call()
        waiting = pool.submit(send, server.url + "/api/generate", NEVER_S, call, {"model": "mid-a"})
        assert server.asked.wait(PATIENCE_S)
        call.cut()
        assert server.client_went.wait(PATIENCE_S), "the server sees that nobody waits any more"
        with pytest.raises(CallCut):
            waiting.result(PATIENCE_S)


def test_a_cut_before_the_call_sends_nothing() -> None:
    call = Call()
    call.cut()
    with raw_server(answering(OK)) as server:
        with pytest.raises(CallCut):
            send(server.url + "/api/generate", 5.0, call, {"model": "mid-a", "keep_alive": 0})
        assert server.requests == []


def test_a_cut_while_the_connection_is_made_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call()
    connect = calls._CuttableConnection.connect

    def connect_and_be_cut(self: Any) -> None:
        connect(self)
        call.cut()

    monkeypatch.setattr(calls._CuttableConnection, "connect", connect_and_be_cut)
    with raw_server(answering(OK)) as server:
        with pytest.raises(CallCut):
            send(server.url + "/api/generate", 5.0, call, {"model": "mid-a"})
        assert server.requests == []


def test_a_cut_on_a_reused_connection_ends_the_wait_too() -> None:
    def once_then_hang(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.request()
        peer.hang()

    with raw_server(once_then_hang) as server, ThreadPoolExecutor(1) as pool:
        session = calls.Session()
        send(server.url + "/api/ps", session=session)
        call = Call()
        waiting = pool.submit(send, server.url + "/api/ps", NEVER_S, call, None, session)
        assert server.dripping.wait(PATIENCE_S)
        assert server.connections == 1
        call.cut()
        with pytest.raises(CallCut):
            waiting.result(PATIENCE_S)
        session.close()


def test_one_cut_ends_all_requests_that_share_a_call() -> None:
    """Several old models are unloaded at once in one call."""
    with raw_server(hang) as server, ThreadPoolExecutor(3) as pool:
        session, call = calls.Session(), Call()
        waiting = [
            pool.submit(send, server.url + "/api/generate", NEVER_S, call, {"model": m}, session)
            for m in ("mid-a", "mid-b", "big")
        ]
        while len(server.requests) < 3:
            assert not server.over.wait(0.01)
        call.cut()
        for future in waiting:
            with pytest.raises(CallCut):
                future.result(PATIENCE_S)
        session.close()


def test_a_late_cut_does_not_hit_the_next_call_on_the_connection() -> None:
    with raw_server(answering(OK, OK, OK)) as server:
        session, first, late = calls.Session(), Call(), Call()
        send(server.url + "/api/ps", 5.0, first, session=session)
        send(server.url + "/api/ps", 5.0, late, session=session)
        first.cut()
        late.expire()
        assert send(server.url + "/api/ps", session=session).status == 200
        assert server.connections == 1
        session.close()


def test_a_call_that_was_cut_before_its_deadline_counts_as_cut() -> None:
    with raw_server(hang) as server:
        call = Call()
        call.cut()
        call.expire()
        with pytest.raises(CallCut):
            send(server.url + "/api/ps", 5.0, call)


def test_a_call_leaves_neither_a_thread_nor_a_deadline_behind() -> None:
    with raw_server(answering(OK)) as server:
        send(server.url + "/api/ps")  # starts the thread of all deadlines
    threads = [t.name for t in threading.enumerate()].count("deadlines")
    with raw_server(answering(OK)) as server:
        call = Call()
        send(server.url + "/api/ps", NEVER_S, call)
        assert not [d for _, _, d in list(calls.deadlines._heap) if d.act is not None]
        assert [t.name for t in threading.enumerate()].count("deadlines") == threads
        assert not call.was_cut


# --- connections ---------------------------------------------------------------------------


def test_calls_of_one_session_share_a_connection() -> None:
    with raw_server(answering(OK, OK, OK)) as server:
        session = calls.Session()
        for _ in range(3):
            assert send(server.url + "/api/ps", session=session).json() == {}
        assert (server.connections, len(server.requests)) == (1, 3)
        session.close()


def test_every_reading_is_sent_alike_and_without_cookies() -> None:
    cookie = json_answer(b"{}", extra=b"Set-Cookie: route=1\r\n")
    with raw_server(answering(cookie, OK)) as server:
        session = calls.Session()
        for _ in range(2):
            send(server.url + "/api/ps", session=session)
        first, second = server.requests
        assert first == second
        session.close()


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    with raw_server(answering(OK)) as server:
        session = calls.Session()
        for _ in range(3):
            assert send(server.url + "/api/ps", session=session).status == 200
            gone = server._threads[-1]
            gone.join(PATIENCE_S)
        assert server.connections == 3
        session.close()


def test_a_reading_survives_a_connection_that_closes_just_as_it_asks() -> None:
    """As with a proxy that has a short keep-alive: it hangs up when the request arrives."""

    def hang_up_on_the_second(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        if peer.number == 1:
            peer.request()

    with raw_server(hang_up_on_the_second) as server:
        session = calls.Session()
        send(server.url + "/api/ps", session=session)
        assert send(server.url + "/api/ps", session=session).status == 200
        session.close()


def test_a_change_is_never_sent_twice() -> None:
    def hang_up_on_the_second(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.request()

    with raw_server(hang_up_on_the_second) as server:
        session = calls.Session()
        send(server.url + "/api/ps", session=session)
        with pytest.raises(Unreachable):
            send(server.url + "/api/generate", 5.0, None, {"model": "mid-a"}, session)
        assert sum(r.startswith(b"POST") for r in server.requests) == 1
        session.close()


def test_a_server_that_always_hangs_up_is_not_asked_for_ever() -> None:
    def hang_up(peer: Peer) -> None:
        peer.request()

    with raw_server(hang_up) as server:
        with pytest.raises(Unreachable):
            send(server.url + "/api/ps")
        assert len(server.requests) <= 2


def _open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return count


@pytest.mark.parametrize(
    "serve",
    [
        hang,
        drip_body,
        answering(json_answer(b"x" * 9_000_000)),
        answering(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 2\r\n\r\nok"),
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
    ],
)
def test_no_socket_is_left_open_after_a_call_that_failed(serve: Serve) -> None:
    session = calls.Session()
    with raw_server(serve) as server:
        for _ in range(3):
            with pytest.raises(OllamaError):
                send(server.url + "/api/ps", timeout_s=0.3, session=session)
    gc.collect()
    session.close()
    before = _open_sockets()
    gc.collect()
    assert _open_sockets() == before, "nothing is left to the garbage collector"
    peers = [s for s in gc.get_objects() if issubclass(type(s), socket.socket) and s.fileno() >= 0]
    assert not [s for s in peers if _peer(s) == server.url.removeprefix("http://")]


def _peer(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except (OSError, ValueError):
        return ""
    return f"{host}:{port}"


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with raw_server(answering(OK)) as server:
        assert send(server.url + "/api/ps").status == 200


def test_no_password_of_netrc_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login anna password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with raw_server(answering(OK)) as server:
        send(server.url + "/api/ps")
        assert b"authorization" not in server.requests[0].lower()


# --- hostile answers -----------------------------------------------------------------------


def test_a_server_that_closes_halfway_is_a_bad_answer() -> None:
    with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")) as server:
        with pytest.raises(BadAnswer, match="broke off"):
            send(server.url + "/api/ps")


def test_a_server_that_closes_before_it_answers_is_unreachable() -> None:
    with raw_server(answering(b"")) as server:
        with pytest.raises(Unreachable, match="The connection to http://127.0.0.1:"):
            send(server.url + "/api/ps")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_bad_answer(answer: bytes) -> None:
    with raw_server(answering(answer)) as server, pytest.raises(BadAnswer, match="not HTTP"):
        send(server.url + "/api/generate", 5.0, None, {})


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nContent-Length: 7\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: abc\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 5\r\n",
        b"Content-Encoding: deflate\r\n",
        b"Content-Type: \xff\xfe\r\nSet-Cookie: \xff=\xff; expires=\xff\r\n",
    ],
)
def test_nonsense_in_headers_is_an_ollama_error(head: bytes) -> None:
    with raw_server(answering(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nhello")) as server:
        with pytest.raises(OllamaError):
            send(server.url + "/api/ps", timeout_s=1.0).json()


def test_an_answer_of_ten_megabytes_is_cut() -> None:
    with raw_server(answering(json_answer(b" " * 10_000_000))) as server:
        with pytest.raises(BadAnswer, match="exceeds 8 MB"):
            send(server.url + "/api/tags")


def test_an_endless_answer_is_cut_by_its_size() -> None:
    def pour(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not peer.server.over.is_set():
            peer.send(b" " * 65536)

    with raw_server(pour) as server, pytest.raises(BadAnswer, match="exceeds 8 MB"):
        send(server.url + "/api/tags", timeout_s=30)


def test_a_small_answer_that_unpacks_to_a_huge_one_is_cut() -> None:
    packed = gzip.compress(b" " * 50_000_000)
    assert len(packed) < 100_000
    answer = json_answer(packed, extra=b"Content-Encoding: gzip\r\n")
    with raw_server(answering(answer)) as server, pytest.raises(BadAnswer, match="exceeds 8 MB"):
        send(server.url + "/api/tags")


@pytest.mark.parametrize(
    "location",
    [
        b"http://127.0.0.1:1/elsewhere",
        b"http://[",
        b"\xff\xfe",
        b"//",
        b"ftp://example.test",
        b"http://" + b"a" * 70 + b".test/",
    ],
)
def test_no_redirect_is_followed_wherever_it_points(location: bytes) -> None:
    answer = json_answer(b"{}", "302 Found", b"Location: " + location + b"\r\n")
    with raw_server(answering(answer, OK)) as server:
        with pytest.raises(BadAnswer, match="answered 302, a redirect: not Ollama"):
            send(server.url + "/api/ps")
        assert len(server.requests) == 1


def test_the_body_of_a_redirect_is_not_read() -> None:
    sent = 0

    def pour(peer: Peer) -> None:
        nonlocal sent
        peer.request()
        peer.send(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n")
        while not peer.server.over.is_set() and sent < 200_000_000:
            peer.send(b" " * 65536)
            sent += 65536

    with raw_server(pour) as server, pytest.raises(BadAnswer, match="redirect"):
        send(server.url + "/api/tags", timeout_s=30)
    assert sent < 20_000_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>no</html>",
        b"[1, 2]",
        b'"text"',
        b"null",
        b"\xff\xfe\x00",
        b"{" * 1000,
        b"[" * 5_000_000,
        b'{"a":' * 500_000,
        b'{"size": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda b: repr(b[:12]),
)
def test_what_is_no_json_object_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        Answer(200, body).json()


# --- addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "north 1",
        "north-1",
        "http://",
        "http:///api",
        "http://[::1",
        "http://[nonsense]",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:abc",
        "http://exa mple",
        "http://" + "a" * 64 + ".test",
        "http://.test",
        "http://a..test",
        "http://*.test",
        "http://\udcff.test",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://\x00",
    ],
)
def test_an_impossible_address_is_unreachable(url: str) -> None:
    with pytest.raises(Unreachable, match="."):
        send(url + "/api/ps", timeout_s=2.0)


def test_a_refused_connection_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match=f"Connection refused at http://127.0.0.1:{port}"):
        send(f"http://127.0.0.1:{port}/api/ps")


def test_an_unknown_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unreachable, match="name in http://nowhere.test is not known"):
        send("http://nowhere.test/api/ps")


def test_a_server_that_takes_no_connection_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CONNECT_TIMEOUT_S", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = []
        for _ in range(4):  # fill its queue: further connections are not even acknowledged
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        with pytest.raises(Unreachable, match="No connection to"):
            send(f"http://127.0.0.1:{address[1]}/api/ps")
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("timeout_s", [3_000_000.0, 1e12])
def test_a_timeout_of_many_days_works(timeout_s: float) -> None:
    """A profile may name any number of seconds."""
    with raw_server(answering(OK)) as server:
        assert send(server.url + "/api/ps", timeout_s=timeout_s).status == 200


def test_a_body_that_cannot_be_sent_is_an_ollama_error() -> None:
    with raw_server(answering(OK)) as server, pytest.raises(OllamaError):
        send(server.url + "/api/generate", 5.0, None, {"temperature": float("nan")})


# --- over TLS ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    pem = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run([sys.executable, "-c", _MAKE_PEM, str(pem)], check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context, str(pem)


_MAKE_PEM = """
import datetime, ipaddress, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization as s
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
now = datetime.datetime.now(datetime.timezone.utc)
cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
  .public_key(key.public_key()).serial_number(1)
  .not_valid_before(now - datetime.timedelta(days=1))
  .not_valid_after(now + datetime.timedelta(days=1))
  .add_extension(x509.SubjectAlternativeName(
      [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
  .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
  .sign(key, hashes.SHA256()))
open(sys.argv[1], "wb").write(
  key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
  + cert.public_bytes(s.Encoding.PEM))
"""


@pytest.mark.parametrize("serve", [hang, drip_header_lines, drip_body, drip_body_until_closed])
def test_a_cut_ends_the_wait_over_tls_too(tls: tuple[ssl.SSLContext, str], serve: Serve) -> None:
    context, pem = tls
    with raw_server(serve, context) as server, ThreadPoolExecutor(1) as pool:
        trusting = ssl.create_default_context(cafile=pem)
        session, call = calls.Session(Transport({}, trusting, None)), Call()
        waiting = pool.submit(send, server.url + "/api/ps", NEVER_S, call, None, session)
        assert server.dripping.wait(PATIENCE_S)
        call.cut()
        with pytest.raises(CallCut):
            waiting.result(PATIENCE_S)
        session.close()


def test_an_untrusted_certificate_is_refused(tls: tuple[ssl.SSLContext, str]) -> None:
    with raw_server(answering(OK), tls[0]) as server:
        with pytest.raises(Unreachable):
            send(server.url + "/api/ps")
        assert server.requests == []


# --- the client ---------------------------------------------------------------------


def test_a_slow_reading_ends_at_the_short_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("switcher.ollama.client.QUICK_TIMEOUT_S", 0.3)
    with raw_server(drip_body) as server:
        client = Client(server.url)
        with pytest.raises(TimedOut):
            client.resident()
        client.close()


def test_a_load_is_cut_in_the_middle() -> None:
    with raw_server(hang) as server, ThreadPoolExecutor(1) as pool:
        client, call = Client(server.url), Call()
        waiting = pool.submit(client.load, Spec("a", "mid-a"), False, NEVER_S, call)
        assert server.asked.wait(PATIENCE_S)
        call.cut()
        with pytest.raises(CallCut):
            waiting.result(PATIENCE_S)
        client.close()
