"""Decides which IP addresses may be connected to, for both clients of this package.

A name may resolve to anything, and to something else the next time. So it is resolved once for each
connection, all of its addresses are checked, and the connection is made to one of these.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from switcher.domain.addresses import why_port_refused, why_refused
from switcher.ollama.errors import AddressRefused

# (family, type, protocol, canonical name, address), as from `getaddrinfo`
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]

_own_ports: set[int] = set()


def add_own_port(port: int) -> None:
    """Refuse connections to this port on this machine from now on: this process itself listens
    there."""
    _own_ports.add(port)


def check(ip: str, port: int) -> None:
    """Raise AddressRefused if no connection may be made to this address."""
    address = ipaddress.ip_address(ip)
    reason = why_refused(address) or why_port_refused(port)
    if not reason and port in _own_ports and _is_of_this_machine(ip, address):
        reason = "it is Switchboard's own address"
    if reason:
        raise AddressRefused(f"Switchboard does not connect to {ip} port {port}: {reason}.")


def open_socket(info: AddressInfo) -> socket.socket:
    """Return a socket for an address after checking it."""
    family, kind, protocol, _, address = info
    check(address[0], address[1])
    return socket.socket(family, kind, protocol)


def _is_of_this_machine(ip: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an IP address is one of this machine's: then a socket can be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
        return True
