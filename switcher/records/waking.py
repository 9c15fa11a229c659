"""Records that a host was woken."""

from __future__ import annotations

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock


def record_woken(host: str, mac: str, actor: Actor, clock: Clock) -> None:
    """Record that a Wake-on-LAN packet was sent."""
    with writing():
        append("host.woken", actor, host=host, mac_address=mac, clock=clock)
