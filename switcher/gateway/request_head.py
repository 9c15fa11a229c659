"""The head of a request, and what it says about the client."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from django.conf import settings

from switcher import access
from switcher.gateway.addresses import normalised, split_key

# Many proxies add one of these, or some `X-Forwarded-…`, to a request that they forward.
_PROXY_HEADERS = frozenset(
    {
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-host",
        "true-client-ip",
        "client-ip",
        "cf-connecting-ip",
        "cf-ray",
        "fastly-client-ip",
        "x-envoy-external-address",
        "tailscale-user-login",
    }
)
_PROXY_PREFIX = "x-forwarded-"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request. Names of headers are in lower case.

    `peer` is the IP address of the other end of the connection, which may be a proxy's. `path_key`
    is a key that the path began with; `path` is what follows it.
    """

    method: str
    path: str
    query: bytes
    scheme: str
    peer: str
    headers: Mapping[str, str]
    path_key: str = ""

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> RequestHead:
        """Return the head in an ASGI scope."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            # Joined as in Django, so that a header sent twice equals neither of its values.
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        client = scope.get("client") or ("", 0)
        path_key, path = split_key(scope["path"])
        return cls(
            scope["method"],
            normalised(path),
            scope.get("query_string", b""),
            scope.get("scheme", "http"),
            str(client[0]),
            headers,
            path_key,
        )

    @property
    def server_name(self) -> str:
        """Return the Host header: this server's name, as the client wrote it."""
        return self.headers.get("host", "")

    @property
    def content_encoding(self) -> str:
        """Return the encoding of the body in lower case; empty if it has none."""
        encoding = self.headers.get("content-encoding", "").strip().lower().removeprefix("x-")
        return "" if encoding == "identity" else encoding

    @property
    def client_address(self) -> str | None:
        """Return the client's IP address, seen through trusted proxies."""
        return access.client_address(self.peer, self.headers.get("x-forwarded-for", ""))

    @property
    def ollama_host(self) -> str:
        """Return the name of the Ollama host that the client asks for; empty for the
        default host.
        """
        return self.parameter("host") or self.headers.get("x-switchboard-host", "")

    def parameter(self, name: str) -> str:
        """Return a parameter of the query string; empty if it is missing."""
        found = parse_qs(self.query.decode("latin-1")).get(name) if self.query else None
        return found[0] if found else ""

    @property
    def is_secure(self) -> bool:
        """Return whether the client uses HTTPS, perhaps to a proxy in front of us."""
        if settings.SECURE_PROXY_SSL_HEADER:
            name, secure_value = settings.SECURE_PROXY_SSL_HEADER
            value = self.headers.get(name.removeprefix("HTTP_").replace("_", "-").lower())
            if value is not None:
                return value.split(",")[0].strip() == secure_value
        return self.scheme == "https"

    @property
    def is_from_this_machine(self) -> bool:
        """Return whether the client itself seems to be on loopback.

        This alone proves nothing: a proxy on this machine may forward requests for anyone without
        showing it, so SWITCHER_OPEN_GATEWAY has to state that there is none. A proxy that passes on
        the client's Host header is recognised by a Host that is not loopback.
        """
        if settings.SECURE_PROXY_SSL_HEADER or settings.SWITCHER_TRUSTED_PROXIES:
            return False
        if any(n in _PROXY_HEADERS or n.startswith(_PROXY_PREFIX) for n in self.headers):
            return False
        return _is_loopback(self.peer) and _is_loopback_name(self.server_name)


@lru_cache(256)
def _is_loopback_name(server_name: str) -> bool:
    domain = access.server_domain(server_name)
    return domain == "localhost" or _is_loopback(domain.strip("[]"))


@lru_cache(256)
def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
