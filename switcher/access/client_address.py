"""The IP address that a request comes from, seen through trusted proxies only."""

from __future__ import annotations

import ipaddress
import re
from functools import cache

from django.conf import settings
from django.http import HttpRequest

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def address_of(request: HttpRequest) -> str | None:
    """Return the client's address; None if it has none, as behind a Unix socket."""
    return client_address(
        request.META.get("REMOTE_ADDR", ""), request.headers.get("X-Forwarded-For", "")
    )


def origin_of(request: HttpRequest) -> tuple[str | None, str]:
    """Return the client's address and browser, to be put into an Actor."""
    return address_of(request), request.headers.get("User-Agent", "")[:300]


def client_address(peer: str, forwarded: str) -> str | None:
    """Return the address of the client behind `peer`, the other end of the connection.

    `forwarded` is X-Forwarded-For, several headers joined by commas. Each proxy appends the address
    that it got the request from, but anybody can send the header. So it is read from its end, and
    only as far as it was written by proxies in SWITCHER_TRUSTED_PROXIES.
    """
    proxies = _networks(tuple(settings.SWITCHER_TRUSTED_PROXIES))
    client = _parse_address(peer)
    for text in reversed(forwarded.split(",") if forwarded else []):
        previous = _parse_address(text)
        if client is None or previous is None or not any(client in network for network in proxies):
            break
        client = previous
    return str(client) if client else None


def is_trusted_proxy(peer: str) -> bool:
    """Return whether this address is one of SWITCHER_TRUSTED_PROXIES."""
    address = _parse_address(peer)
    proxies = _networks(tuple(settings.SWITCHER_TRUSTED_PROXIES))
    return address is not None and any(address in network for network in proxies)


@cache
def _networks(proxies: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in proxies)


def _parse_address(text: str) -> _Address | None:
    """Parse an address with or without a port: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    text = text.strip()
    with_port = re.fullmatch(r"\[([^\]]*)\](?::\d+)?|([0-9.]+):\d+", text)
    try:
        address = ipaddress.ip_address((with_port[1] or with_port[2] or "") if with_port else text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        # Drop the zone: it is only meaningful on one machine, and PostgreSQL rejects it.
        return ipaddress.IPv6Address(int(address))
    return address
