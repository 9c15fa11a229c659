"""What both clients send to a server behind a proxy, and which certificates they trust."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from switcher.concurrency.threads import in_thread
from switcher.domain.addresses import check_address
from switcher.domain.errors import BadRequest
from switcher.domain.servers import Credentials, Server, parse_headers
from switcher.ollama import relay, transport
from switcher.ollama.client import Client
from switcher.ollama.errors import CredentialsUnreadable, OllamaError
from switcher.ollama.sealing import seal, unseal
from tests.ollama.certificates import Authority
from tests.ollama.rawserver import Peer, RawServer, json_answer, raw_server
from tests.until import PATIENCE_S

EMPTY = json_answer(b'{"models": []}')
BEARER = Credentials(bearer_token="s3cret-token")
Ask = Callable[[Server], Awaitable[str]]


def serve(peer: Peer) -> None:
    while peer.request():
        peer.send(EMPTY)


def _read(server: Server) -> str:
    client = Client(server)
    try:
        client.resident()
    except OllamaError as exc:
        return exc.text
    finally:
        client.close()
    return ""


async def control_plane(server: Server) -> str:
    """Read the server; return the error."""
    return await in_thread(_read, server)


async def gateway(server: Server) -> str:
    """Relay a request to the server; return the error."""
    try:
        async with asyncio.timeout(PATIENCE_S), relay.ask(server, "GET", "/api/ps") as upstream:
            await upstream.read()
    except OllamaError as exc:
        return exc.text
    finally:
        await relay.close()
    return ""


@pytest.fixture(autouse=True)
def _nothing_is_cached(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> None:
    settings.SWITCHER_HOST_KEY = str(tmp_path / "host-credentials.key")
    transport._transport.cache_clear()
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=[control_plane, gateway], ids=["control plane", "gateway"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("own CA")


def sent(server: RawServer) -> str:
    return server.requests[-1].decode()


@pytest.mark.parametrize(
    ("credentials", "line"),
    [
        (BEARER, "authorization: bearer s3cret-token"),
        (Credentials(user="anna", password="p:w"), "authorization: basic yw5uytpwonc="),
        (Credentials(headers=(("X-Api-Key", "k1"),)), "x-api-key: k1"),
        (Credentials(headers=(("Host", "localhost"),)), "host: localhost"),
    ],
)
async def test_credentials_are_sent_by_both_clients(
    ask: Ask, credentials: Credentials, line: str
) -> None:
    with raw_server(serve) as raw:
        assert await ask(Server(raw.url, seal(credentials.checked()))) == ""
        lines = sent(raw).lower().split("\r\n")
        assert lines.count(line) == 1
        assert len([x for x in lines if x.startswith("host:")]) == 1


async def test_a_base_path_is_kept(ask: Ask) -> None:
    with raw_server(serve) as raw:
        assert await ask(Server(f"{raw.url}/ollama")) == ""
        assert sent(raw).startswith("GET /ollama/api/ps HTTP/1.1")


async def test_an_own_ca_is_trusted_and_nothing_else(
    ask: Ask, authority: Authority, tmp_path: Path
) -> None:
    with raw_server(serve, authority.server_context(tmp_path)) as raw:
        assert await ask(Server(raw.url, ca_certificate=authority.pem)) == ""
        for other in (Server(raw.url), Server(raw.url, ca_certificate=Authority("other").pem)):
            assert "No trusted connection" in await ask(other)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_a_ca_of_the_environment_is_trusted_by_both_clients(
    ask: Ask, name: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text(authority.pem)
    monkeypatch.setenv(name, str(bundle))
    with raw_server(serve, authority.server_context(tmp_path)) as raw:
        assert await ask(Server(raw.url)) == ""


async def test_a_bundle_that_is_missing_is_named(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    assert "The CA certificates that the environment names" in await ask(Server("https://h.test"))


async def test_a_certificate_is_left_unverified_only_when_told(
    ask: Ask, authority: Authority, tmp_path: Path
) -> None:
    with raw_server(serve, authority.server_context(tmp_path)) as raw:
        assert await ask(Server(raw.url, verify_tls=False)) == ""
        assert "No trusted connection" in await ask(Server(raw.url))


async def test_a_client_certificate_is_shown_where_it_is_demanded(
    ask: Ask, authority: Authority, tmp_path: Path
) -> None:
    clients = Authority("clients")
    certificate = Credentials(client_certificate=clients.issue("switchboard"))
    with raw_server(serve, authority.server_context(tmp_path, clients)) as raw:
        with_it = Server(raw.url, seal(certificate), authority.pem)
        assert await ask(with_it) == ""
        assert await ask(Server(raw.url, "", authority.pem)) != ""


async def test_a_proxy_of_the_environment_is_used_only_if_the_setting_says_so(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with raw_server(serve) as raw, raw_server(serve) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert await ask(Server(raw.url)) == ""
        assert (len(raw.requests), len(proxy.requests)) == (1, 0)
        settings.SWITCHER_USE_PROXY = True
        assert await ask(Server("http://gpu-1.test:11434")) == ""
        assert sent(proxy).startswith("GET http://gpu-1.test:11434/api/ps HTTP/1.1")
        assert "does not connect there" in await ask(Server("http://169.254.169.254"))
        monkeypatch.setenv("no_proxy", "127.0.0.0/8")
        assert await ask(Server(raw.url)) == ""
        assert (len(raw.requests), len(proxy.requests)) == (2, 1)


def tunnel(peer: Peer) -> None:
    """Serve a CONNECT as a proxy does, and pass everything on."""
    target = peer.request().split()[1].decode()
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port))) as server:
        peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        server.settimeout(0.05)
        while not peer.server.over.is_set():
            for source, sink in ((peer.sock, server), (server, peer.sock)):
                with suppress(TimeoutError):
                    if not (data := source.recv(65536)):
                        return
                    sink.sendall(data)


async def test_https_goes_through_a_tunnel_of_the_proxy(
    ask: Ask, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    settings.SWITCHER_USE_PROXY = True
    with (
        raw_server(serve, authority.server_context(tmp_path)) as raw,
        raw_server(tunnel) as proxy,
    ):
        monkeypatch.setenv("https_proxy", proxy.url)
        server = Server(raw.url, seal(BEARER), authority.pem)
        assert await ask(server) == ""
        assert "authorization: bearer s3cret-token" in sent(raw).lower()
        assert sent(proxy).startswith("CONNECT 127.0.0.1:")
        assert "s3cret" not in sent(proxy)
        assert "No trusted connection" in await ask(Server(raw.url))


async def test_a_server_is_reached_by_ipv6(ask: Ask) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        url = f"http://[::1]:{listener.getsockname()[1]}"
        assert check_address(url) == url
        asking = asyncio.create_task(ask(Server(url)))  # type: ignore[arg-type]
        sock, _ = await in_thread(listener.accept)
        with sock:
            await in_thread(sock.recv, 65536)
            sock.sendall(EMPTY)
            assert await asking == ""


def test_credentials_are_encrypted_with_a_key_that_only_the_owner_reads(settings: Any) -> None:
    sealed = seal(BEARER)
    assert "s3cret" not in sealed
    assert unseal(sealed) == BEARER
    path = Path(settings.SWITCHER_HOST_KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(CredentialsUnreadable, match="chmod 600"):
        unseal(sealed)


def test_another_key_does_not_open_credentials_and_is_not_made_anew(settings: Any) -> None:
    sealed = seal(BEARER)
    path = Path(settings.SWITCHER_HOST_KEY)
    path.unlink()
    with pytest.raises(CredentialsUnreadable, match="cannot be read"):
        unseal(sealed)
    assert not path.exists()
    seal(BEARER)
    with pytest.raises(CredentialsUnreadable, match="with another key"):
        unseal(sealed)


async def test_credentials_that_cannot_be_read_are_an_error_of_the_host(ask: Ask) -> None:
    assert "with another key" in await ask(
        Server("http://127.0.0.1:8", seal(BEARER)[:-8] + "abcd==\n")
    )


def test_nothing_of_them_is_in_a_representation() -> None:
    all_of_them = Credentials("s3cret", "s3cret", "s3cret", (("X", "s3cret"),), "s3cret")
    server = Server("http://gpu-1", "s3cret")
    assert (
        "s3cret" not in f"{all_of_them!r} {server!r} {transport.transport_of(Server('http://a'))!r}"
    )


@pytest.mark.parametrize(
    "credentials",
    [
        Credentials(bearer_token="s3cret", user="s3cret"),
        Credentials(bearer_token="s3cret\r\nX: 1"),
        Credentials(user="s3:cret"),
        Credentials(password="s3cret"),
        Credentials(headers=(("X-Key", "s3cret\r\nX: 1"),)),
        Credentials(headers=(("X Key", "s3cret"),)),
        Credentials(headers=(("Content-Length", "s3cret"),)),
        Credentials(headers=(("Authorization", "s3cret"),)),
        Credentials(headers=(("X-Key", "s3crét"),)),
    ],
)
def test_what_cannot_be_sent_is_refused_without_repeating_it(credentials: Credentials) -> None:
    with pytest.raises(BadRequest) as refused:
        credentials.checked()
    assert "s3" not in refused.value.text


@pytest.mark.parametrize("values", [[], {"token": "s3cret"}, {"headers": 5}, {"user": 5}])
def test_credentials_as_json_are_checked(values: object) -> None:
    with pytest.raises(BadRequest):
        Credentials.from_json(values)


def test_credentials_as_json_may_have_headers_as_an_object() -> None:
    found = Credentials.from_json({"user": "a", "headers": {"X-Key": "1"}})
    assert found.kinds() == ["user and password", "header X-Key"]


def test_headers_are_written_one_a_line() -> None:
    assert parse_headers("X-A: 1\n\n X-B : 2:3 \n") == (("X-A", "1"), ("X-B", "2:3"))
    with pytest.raises(BadRequest):
        parse_headers("no colon")


@pytest.mark.parametrize("value", ["a\nb", " a", "a ", "é", ""])
def test_a_header_that_clients_read_differently_is_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="printable ASCII"):
        Credentials(headers=(("X-A", value),)).checked()


def test_a_token_takes_the_place_of_a_user_and_the_rest_stays() -> None:
    known = Credentials(user="a", password="b", headers=(("X", "1"),))
    assert known.updated(Credentials(bearer_token="t")).kinds() == ["bearer token", "header X"]
    assert known.updated(Credentials()) == known


@pytest.mark.parametrize("text", ["nonsense", "-----BEGIN CERTIFICATE-----\nAA\n-----END"])
def test_what_is_no_certificate_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="in PEM"):
        transport.check_tls(Server("https://a", ca_certificate=text), Credentials())
    with pytest.raises(BadRequest, match="with its key in PEM"):
        transport.check_tls(Server("https://a"), Credentials(client_certificate=text))


def test_a_certificate_without_its_key_is_refused(authority: Authority) -> None:
    with pytest.raises(BadRequest, match="with its key"):
        transport.check_tls(Server("https://a"), Credentials(client_certificate=authority.pem))


def test_verification_is_on_for_every_other_server(authority: Authority) -> None:
    found = transport.transport_of(Server("https://a"))
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    assert found.tls.check_hostname
