"""What both clients of this package send and trust: headers, certificates, the environment's CAs
and proxies."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from django.conf import settings
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies

from switcher.domain.addresses import check_address
from switcher.domain.errors import BadRequest
from switcher.domain.servers import Credentials, Server
from switcher.ollama.errors import AddressRefused, CredentialsUnreadable
from switcher.ollama.sealing import unseal

# As `requests` and curl read them. OpenSSL itself reads SSL_CERT_FILE and SSL_CERT_DIR.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_OPENSSL = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_CA = "ca_certificate"
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\\s]+?-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Transport:
    """How requests to one server are sent. `tls` is None for plain HTTP."""

    headers: Mapping[str, str] = field(repr=False)
    tls: ssl.SSLContext | None
    proxy: str | None = field(repr=False)  # its address may hold a password


PLAIN = Transport({}, None, None)


def transport_of(server: Server) -> Transport:
    """Return how to reach a server. Raises CredentialsUnreadable, AddressRefused."""
    return _transport(server, settings.SWITCHER_HOST_KEY, settings.SWITCHER_USE_PROXY)


def certificates_in(text: str) -> str:
    """Return the PEM certificates in a text and nothing else of it. Raises BadRequest if there is
    none, or if a private key, which must not be stored unencrypted, lies beside them."""
    if "PRIVATE KEY" in text:
        raise BadRequest("A CA needs no private key here. Paste its certificate alone.", _CA)
    found = _CERTIFICATE.findall(text)
    if text.strip() and not found:
        raise BadRequest("This is not a certificate in PEM.", _CA)
    return "\n".join(found)


def fingerprints(pem: str) -> list[str]:
    """Return the SHA-256 of each certificate."""
    ders = map(ssl.PEM_cert_to_DER_cert, _CERTIFICATE.findall(pem))
    return [hashlib.sha256(der).hexdigest() for der in ders]


def check_tls(server: Server, credentials: Credentials) -> None:
    """Raise BadRequest if the certificates cannot be used."""
    for name, text in (
        (_CA, server.ca_certificate),
        ("client_certificate", credentials.client_certificate),
    ):
        try:
            if name == _CA:
                _trusting(text)
            else:
                _add_client_certificate(ssl.create_default_context(), text)
        except (ssl.SSLError, ValueError, UnicodeError):
            what = "a certificate" if name == _CA else "a certificate with its key"
            raise BadRequest(f"This is not {what} in PEM.", name) from None


@lru_cache(1024)
def _transport(server: Server, key_file: str, use_proxy: bool) -> Transport:
    """Cached: the settings are named so that each combination has its own."""
    credentials = unseal(server.sealed_credentials)
    is_tls = server.base_url.startswith("https:")
    return Transport(
        headers=credentials.http_headers(),
        tls=_context(server, credentials) if is_tls else None,
        proxy=_proxy(server.base_url) if use_proxy else None,
    )


def _context(server: Server, credentials: Credentials) -> ssl.SSLContext:
    try:
        context = _trusting(server.ca_certificate)
        if not server.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        _add_client_certificate(context, credentials.client_certificate)
    except ssl.SSLError as exc:
        raise CredentialsUnreadable("The host's certificates cannot be used.") from exc
    except OSError as exc:
        text = f"The CA certificates that the environment names cannot be read: {exc.strerror}."
        raise CredentialsUnreadable(text) from exc
    return context


def _trusting(ca_certificate: str) -> ssl.SSLContext:
    """Return a context that trusts one CA, or those of the environment, or those of the system and
    of `requests`."""
    if ca_certificate:
        return ssl.create_default_context(cadata=ca_certificate)
    context = ssl.create_default_context()
    bundles = [path for name in _BUNDLES if (path := os.environ.get(name))]
    if not bundles and not any(os.environ.get(name) for name in _OPENSSL):
        bundles = [DEFAULT_CA_BUNDLE_PATH]
    for path in bundles:
        is_dir = os.path.isdir(path)
        context.load_verify_locations(None if is_dir else path, path if is_dir else None)
    return context


def _add_client_certificate(context: ssl.SSLContext, pem: str) -> None:
    """Add a certificate and its key, which OpenSSL reads only from a file."""
    if not pem:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # mode 600
        file.write(pem)
        file.flush()
        # Without a password it would ask for one at the terminal.
        context.load_cert_chain(file.name, password=lambda: "")


def _proxy(base_url: str) -> str | None:
    """Return the environment's proxy for a server. Behind it only the address as it is written can
    be checked."""
    try:
        check_address(base_url)
    except BadRequest as exc:
        raise AddressRefused(exc.text) from None
    proxies = get_environ_proxies(base_url)
    return proxies.get(base_url.partition(":")[0]) or proxies.get("all")
