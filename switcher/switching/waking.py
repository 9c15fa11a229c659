"""Wakes the machine of a host that sleeps, before a switch or by itself."""

from __future__ import annotations

from switcher.audit.ledger import Actor
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest
from switcher.models import Host
from switcher.ollama.errors import TimedOut, Unreachable
from switcher.ollama.waking import send_wake_packet
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.waking import record_woken
from switcher.switching.effects import ListResident, Pause, Steps, Wake

WAKE_TIMEOUT_S = 180.0  # from the packet to the first answer
LOOK_INTERVAL_S = 2.0


def wake_if_asleep(switch: ClaimedSwitch) -> Steps[None]:
    """Wake the host if it does not answer and its card's address is known, and wait for it.

    Raises Unreachable or TimedOut if it does not answer within WAKE_TIMEOUT_S.
    """
    mac = switch.row.host.mac_address
    if not mac or (yield from _answers()):
        return
    began = switch.clock.monotonic()
    yield Wake(mac)
    switch.record_woken(mac)
    while not (yield from _answers()):
        if switch.clock.monotonic() - began > WAKE_TIMEOUT_S:
            yield ListResident()  # raises why it cannot be reached
            return
        yield Pause(LOOK_INTERVAL_S)
    seconds = switch.clock.monotonic() - began
    switch.warn(f"{switch.host} was woken and answered after {seconds:.0f} s.")


def _answers() -> Steps[bool]:
    try:
        yield ListResident()
    except (Unreachable, TimedOut):
        return False
    return True


def wake_host(host: Host, actor: Actor, clock: Clock = system) -> None:
    """Send a host its Wake-on-LAN packet. Raises BadRequest, Unreachable."""
    if not host.mac_address:
        raise BadRequest(f"The settings of {host.name} have no MAC address.", "mac_address")
    send_wake_packet(host.mac_address)
    record_woken(host.name, host.mac_address, actor, clock)
