"""Free a ghost: unload a resident model that its own name no longer reaches, or that is overdue,
through another name that points to the same content (facts 23, 24)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from switcher.audit.ledger import Actor
from switcher.domain.clock import Clock, system
from switcher.domain.drift_rules import ghost_text
from switcher.domain.errors import BadRequest, Conflict, NotFound, SwitcherError
from switcher.domain.model_copies import SHORT_DIGEST, find_name, what_remains, with_model_names
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_digest, find_installed
from switcher.domain.servers import Server
from switcher.domain.wording import gb
from switcher.models import Host
from switcher.ollama.client import Client, Ollama
from switcher.queries.model_copies import model_copies_of
from switcher.records import model_copies
from switcher.records.leases import LeaseHolder
from switcher.switching.copy_cleanup import remove_copy
from switcher.switching.host_lease import HostLease, lease_host
from switcher.switching.residency import FIRST_INTERVALS_S, POLL_INTERVAL_S

log = logging.getLogger(__name__)

WAIT_S = 1.0  # a switch that has just ended removes its copies before it gives the host back
UNLOAD_TIMEOUT_S = 8.0  # with the calls before it, within one lease


@dataclass(frozen=True, slots=True)
class FreedGhost:
    """A ghost that was unloaded, and the bytes that it held."""

    host: str
    model: str
    digest: str
    bytes: int

    @property
    def text(self) -> str:
        return (
            f"{self.model} ({self.digest[:12]}) left {self.host}: "
            f"{gb(self.bytes)} GB are free again."
        )


def free(
    host: Host,
    digest: str,
    actor: Actor,
    clock: Clock = system,
    connect: Callable[[Server], Ollama] = Client,
) -> FreedGhost:
    """Unload a ghost, wait until it is gone, and remove its model copy.

    `digest` may be shortened to the 12 digits that `ollama ps` shows. Raises NotFound if no such
    model is resident; Conflict if it is not a ghost, is busy or cannot be reached by any name, or
    if something else is at work on the host; OllamaError kinds.
    """
    if len(digest) < SHORT_DIGEST:
        raise BadRequest(f"Give at least {SHORT_DIGEST} digits of its digest.", "digest")
    with lease_host(host.pk, host.server, clock, connect, wait_s=WAIT_S) as lease:
        return _free(lease, digest, actor)


def _free(lease: HostLease, digest: str, actor: Actor) -> FreedGhost:
    host = Host.objects.get(pk=lease.host_id)
    copies = model_copies_of(lease.host_id)
    resident, installed = lease.call(lease.ollama.resident), lease.call(lease.ollama.installed)
    shown = with_model_names(resident, {copy.name: copy.tag for copy in copies})
    ghost = _find(shown, digest, host)
    _check_is_ghost(ghost, host, installed, lease.clock)
    name = find_name(ghost.digest, ghost.name, installed)
    if not name:
        raise Conflict(what_remains(ghost, host.name, lease.clock.now()))
    freed = FreedGhost(host.name, ghost.name.short, ghost.digest, ghost.size_vram or ghost.size)
    holder = lease.holder(actor)
    facts = {"model": ghost.name.full, "name": name.full, "bytes": freed.bytes}
    model_copies.record_ghost("ghost.unload-asked", holder, ghost.digest, **facts)
    lease.call(lease.ollama.unload, name.full)
    if not _wait_until_unloaded(lease, ghost.digest):
        raise Conflict(f"{freed.model} is busy: it is unloaded when its requests have ended.")
    model_copies.record_ghost("ghost.freed", holder, ghost.digest, **facts)
    _remove_copies(lease, holder, ghost.digest)
    return freed


def _find(resident: tuple[Resident, ...], digest: str, host: Host) -> Resident:
    found = [r for r in resident if r.digest.startswith(digest)]
    if len(found) != 1:
        raise NotFound(f"No model with the digest {digest[:12]} is loaded on {host.name}.")
    return found[0]


def _check_is_ghost(
    model: Resident, host: Host, installed: tuple[Installed, ...], clock: Clock
) -> None:
    if model.digest == host.active_digest:
        raise Conflict(f"{model.name} is active on {host.name}. Switch to another model instead.")
    tags = host.pinned.values_list("tag", flat=True)
    pins = [find_installed(installed, ModelName.parse(tag)) for tag in tags]
    if any(pin is not None and pin.digest == model.digest for pin in pins):
        raise Conflict(f"{model.name} is pinned on {host.name}. Unpin it first.")
    if not ghost_text(model, installed, clock.now(), {}):
        raise Conflict(
            f"{model.name} is no ghost: its name still reaches it, and it is not overdue."
        )


def _wait_until_unloaded(lease: HostLease, digest: str) -> bool:
    """Return whether the model left in time. An unload is answered before it happens (fact 1)."""
    until = lease.clock.monotonic() + UNLOAD_TIMEOUT_S
    for pause_s in itertools.chain(FIRST_INTERVALS_S, itertools.repeat(POLL_INTERVAL_S)):
        if find_digest(lease.call(lease.ollama.resident), digest) is None:
            return True
        if lease.clock.monotonic() >= until:
            return False
        lease.clock.sleep(pause_s)
    raise AssertionError("repeat never ends")


def _remove_copies(lease: HostLease, holder: LeaseHolder, digest: str) -> None:
    for row in model_copies_of(lease.host_id):
        if row.digest == digest:
            try:
                remove_copy(lease, holder, row)
            except SwitcherError as exc:  # the ghost is free all the same; the cleanup comes later
                log.info("%s is removed later: %s", row.name, exc.text)
