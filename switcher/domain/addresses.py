"""Addresses of Ollama servers: their canonical form, and which ones are never contacted.

The many spellings of one address (octal, hexadecimal and short IPv4, IPv4 inside IPv6, full-width
digits, default ports, a trailing dot) become one here, by the rules of the URL standard. What a
name resolves to is known only when a connection is made, so `why_refused` is called again there.
Pure: no lookup, no connection.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import unquote

from switcher.domain.errors import BadRequest

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORTS = {"http": 80, "https": 443}
OLLAMA_PORT = 11434

# Cloud providers answer here with credentials of the machine that asks. All of them also use
# 169.254.0.0/16, which is refused as link-local.
_METADATA = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure
        "192.0.0.0/24",  # Oracle Cloud
        "fd00:ec2::/32",  # AWS
        "fd20:ce::/32",  # Google Cloud
        "fd00:42::42/128",  # Scaleway
    )
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
# IPv6 networks whose addresses hold an IPv4 address in their last 32 bits.
_WITH_IPV4_LAST = tuple(
    ipaddress.ip_network(text) for text in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")
)
_ISATAP = {0x00005EFE, 0x02005EFE}  # bits 64 to 95

# The "bad ports" of the Fetch standard, which browsers refuse, and those of well-known services
# that are often reachable only from within a network.
_BAD_PORTS = frozenset({
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 10080,
    88, 445, 464, 623, 873, 902,  # Kerberos, SMB, IPMI, rsync, VMware
    1433, 1521, 3306, 5432, 6379, 9042, 11211, 27017, 27018,  # databases
    2375, 2376, 2379, 2380, 6443, 10250, 10255, 10256,  # Docker, etcd, Kubernetes
    1883, 2181, 4369, 5671, 5672, 8883, 9092,  # brokers
    3268, 3269, 3389, 5900, 5901, 5985, 5986,  # directories, remote desktops
})  # fmt: skip
_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)
_ENDS_IN_NUMBER = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)$", re.ASCII)
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Parts:
    """An address as the URL standard reads it. `ip` is None for a name."""

    scheme: str
    name: str
    ip: IPAddress | None
    port: int
    path: str


def check_address(text: str) -> str:
    """Return the canonical base address of an Ollama server, without a trailing slash.

    A wildcard address such as 0.0.0.0 means this machine, as in Ollama's own clients; without a
    scheme, the port is Ollama's. Raises BadRequest, with the reason for an address that is never
    contacted.
    """
    parts = _parse(text)
    reason = why_port_refused(parts.port) or (why_refused(parts.ip) if parts.ip else "")
    if reason:
        raise BadRequest(f"Switchboard does not connect there: {reason}.", "base_url")
    port = "" if parts.port == DEFAULT_PORTS[parts.scheme] else f":{parts.port}"
    return f"{parts.scheme}://{parts.name}{port}{parts.path}"


def place_of(base_url: str) -> tuple[str, int, str]:
    """Return what identifies a server, however its address is written: machine, port and path.

    All names of this machine's loopback interface are one. An address that an earlier release
    stored is read like a new one.
    """
    try:
        parts = _parse(base_url)
    except BadRequest:
        return base_url, 0, ""
    is_loopback = parts.name == "localhost" or parts.name.endswith(".localhost")
    if is_loopback or (parts.ip is not None and parts.ip.is_loopback):
        return "localhost", parts.port, parts.path
    return parts.name, parts.port, parts.path


def why_refused(address: IPAddress) -> str:
    """Return why no connection may be made to this IP address; empty if it may be."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return "it has a zone"
        if address.ipv4_mapped is not None:
            return why_refused(address.ipv4_mapped)
        if any(not inner.is_global for inner in _embedded(address)):
            return "it stands for an IPv4 address that is not public"
    networks = (n for n in _METADATA if n.version == address.version)
    if address.is_link_local or any(address in network for network in networks):
        return "cloud providers keep credentials at such addresses"
    if address.is_multicast:
        return "it is a multicast address"
    if address.is_unspecified or address in _THIS_NETWORK:
        return "it is the address of no machine"
    # Not `is_reserved` of IPv6, which covers loopback too.
    if address.version == 4 and address.is_reserved:
        return "it is a reserved address"
    if address in _LOCAL_NAT64 or (address.version == 6 and address.is_site_local):
        return "it is a reserved address"
    return ""


def why_port_refused(port: int) -> str:
    """Return why no connection may be made to this port; empty if it may be."""
    return f"port {port} belongs to another kind of service" if port in _BAD_PORTS else ""


def _error() -> BadRequest:
    return BadRequest("Write an address such as http://10.0.0.21:11434.", "base_url")


def _parse(text: str) -> _Parts:
    """Read an address in any spelling. Raises BadRequest."""
    text = text.strip(" \t\r\n")
    if not text.isprintable() or " " in text or "\\" in text:
        raise _error()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS:
        raise _error()
    host_and_port, slash, path = rest.partition("/")
    host, port = _split(host_and_port)
    if port is None:
        port = DEFAULT_PORTS[scheme] if separator else OLLAMA_PORT
    ip = _parse_ip(host)
    if ip is not None and ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    name = _check_name(host) if ip is None else f"[{ip}]" if ip.version == 6 else str(ip)
    return _Parts(scheme, name, ip, port, _check_path(slash + path))


def _split(text: str) -> tuple[str, int | None]:
    """Split `host:port`, `[::1]:port` or a bare address. Raises BadRequest."""
    if "@" in text:
        raise BadRequest(
            "Write the user and the password in their own fields, not into the address.",
            "base_url",
        )
    if text.count(":") > 1 and not text.startswith("["):
        return f"[{text}]", None
    found = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?", text, re.ASCII)
    if found is None:
        raise _error()
    port = int(found[2]) if found[2] else None
    if port is not None and port > 65535:
        raise _error()
    return found[1], port


def _parse_ip(text: str) -> IPAddress | None:
    """Return the IP address that a host stands for, in whatever spelling; None for a name. Raises
    BadRequest."""
    try:
        if text.startswith("["):
            address = ipaddress.IPv6Address(text[1:-1])
            return address.ipv4_mapped or address
        name = _ascii(text)
        if not _ENDS_IN_NUMBER.search(name):
            return None
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except (ValueError, OSError):
        raise _error() from None


def _check_name(text: str) -> str:
    name = _ascii(text)
    if not _HOST_NAME.fullmatch(name):
        raise _error()
    return name


def _ascii(text: str) -> str:
    """Return a host name in lower case and ASCII, without a trailing dot. Raises BadRequest."""
    try:
        return text.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        raise _error() from None


def _check_path(path: str) -> str:
    path = path.rstrip("/")
    segments = [unquote(segment) for segment in path.split("/")]
    is_plain = all(s.isprintable() and s not in {".", ".."} and "/" not in s for s in segments)
    if not _PATH.fullmatch(path) or not is_plain:
        raise _error()
    return path


def _embedded(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses inside an IPv6 address, to which a translator or tunnel would
    send."""
    found = [a for a in (address.sixtofour, *(address.teredo or ())) if a is not None]
    number = int(address)
    is_isatap = (number >> 32) & 0xFFFFFFFF in _ISATAP
    if number > 1 and (is_isatap or any(address in network for network in _WITH_IPV4_LAST)):
        found.append(ipaddress.IPv4Address(number & 0xFFFFFFFF))
    return found
