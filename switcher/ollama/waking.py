"""Sends Wake-on-LAN packets to the machines of Ollama servers."""

from __future__ import annotations

import socket

from switcher.domain.wake_on_lan import magic_packet
from switcher.ollama.errors import Unreachable

# Routers do not pass on broadcasts, so the machine has to be on this network.
BROADCAST = ("255.255.255.255", 9)


def send_wake_packet(mac: str) -> None:
    """Broadcast the packet that wakes the machine with this network card. Nothing tells whether it
    arrives. Raises Unreachable if it cannot be sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.sendto(magic_packet(mac), BROADCAST)
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise Unreachable(f"The Wake-on-LAN packet could not be sent: {reason}.") from exc
