"""Wake-on-LAN: the address of a network card, and the packet that wakes its machine."""

from __future__ import annotations

import re

from switcher.domain.errors import BadRequest

_MAC = re.compile(r"([0-9a-f]{2})" + r"[:.-]?([0-9a-f]{2})" * 5, re.IGNORECASE)


def check_mac(text: str) -> str:
    """Return the address as `aa:bb:cc:dd:ee:ff`; empty if it is. Raises BadRequest."""
    text = text.strip()
    if not text:
        return ""
    found = _MAC.fullmatch(text)
    if found is None or int(found[1], 16) & 1:  # that bit marks an address of several cards
        raise BadRequest("Write it like 00:1a:2b:3c:4d:5e.", "mac_address")
    return ":".join(found.groups()).lower()


def magic_packet(mac: str) -> bytes:
    """Return the packet for the address of a card: six bytes of ones, then the address 16 times."""
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16
