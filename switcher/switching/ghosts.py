"""Freeing a ghost: unloading what is resident and not reached by its own name any more, or should
have left long ago (facts 23, 24), through another name that means its content."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from switcher.audit.ledger import Actor
from switcher.domain.clock import Clock, system
from switcher.domain.drift import ghost_text
from switcher.domain.errors import BadRequest, Conflict, NotFound, SwitcherError
from switcher.domain.model_copies import SHORT_DIGEST, reaching, what_remains, with_model_names
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_digest, find_installed
from switcher.domain.plans import gb
from switcher.models import Host
from switcher.ollama.client import Client, Ollama
from switcher.queries.model_copies import model_copies_of
from switcher.records import model_copies
from switcher.records.model_copies import LeaseHolder
from switcher.switching import wake
from switcher.switching.copy_cleanup import remove
from switcher.switching.host_lease import HostLease, lease_host
from switcher.switching.residency import FIRST_INTERVALS_S, POLL_INTERVAL_S
from switcher.switching.worker import new_owner

log = logging.getLogger(__name__)

WAIT_S = 1.0  # a switch that has just ended removes its copies before it gives the host back
PATIENCE_S = 8.0  # for it to leave; with the calls before it, within one lease


@dataclass(frozen=True, slots=True)
class Freed:
    """A ghost that is gone. `bytes` is what it held."""

    host: str
    model: str
    digest: str
    bytes: int

    @property
    def text(self) -> str:
        room = f"{gb(self.bytes)} GB are free again."
        return f"{self.model} ({self.digest[:12]}) left {self.host}: {room}"


def free(
    host: Host,
    digest: str,
    actor: Actor,
    clock: Clock = system,
    connect: Callable[[str], Ollama] = Client,
) -> Freed:
    """Unload it, wait until it is gone, remove the copy that was held of it.

    `digest` may be shortened to the 12 digits that `ollama ps` shows. Raises NotFound where none
    such is resident; Conflict where it is no ghost, nothing reaches it, it is busy, or something
    else is at work on the host; OllamaError kinds.
    """
    if len(digest) < SHORT_DIGEST:
        raise BadRequest(f"Name it by {SHORT_DIGEST} digits of its digest or more.", "digest")
    try:
        with lease_host(host.pk, new_owner(), clock, wait_s=WAIT_S) as hold:
            ollama = connect(host.base_url)
            try:
                return _free_held(host.pk, digest, actor, hold, ollama)
            finally:
                ollama.close()
    finally:
        wake.worker()  # a switch that was asked for meanwhile waits for the lease


def _free_held(host_id: int, digest: str, actor: Actor, hold: HostLease, ollama: Ollama) -> Freed:
    host = Host.objects.get(pk=host_id)
    ours = model_copies_of(host_id)
    resident = hold.call(ollama.resident)
    installed = hold.call(ollama.installed)
    here = _find(with_model_names(resident, {h.name: h.tag for h in ours}), digest, host)
    _check_is_ghost(here, host, installed, hold.clock)
    way = reaching(here.digest, here.name, installed)
    if not way:
        raise Conflict(what_remains(here, host.name, hold.clock.now()))
    freed = Freed(host.name, here.name.short, here.digest, here.size_vram or here.size)
    holder = LeaseHolder(host_id, hold.fence, actor, clock=hold.clock)
    facts = {"model": here.name.full, "name": way.full, "bytes": freed.bytes}
    model_copies.tell("ghost.unload-asked", holder, here.digest, **facts)
    hold.call(ollama.unload, way.full)
    if not _has_left(ollama, hold, here.digest):
        raise Conflict(f"{freed.model} is busy: it leaves when its requests have ended.")
    model_copies.tell("ghost.freed", holder, here.digest, **facts)
    for row in ours:
        if row.digest == here.digest:
            try:
                remove(ollama, hold, holder, row)
            except SwitcherError as exc:  # it is free all the same; the copy is tidied up later
                log.info("%s on %s is removed later: %s", row.name, host.name, exc.text)
    return freed


def _find(resident: tuple[Resident, ...], digest: str, host: Host) -> Resident:
    found = [r for r in resident if r.digest.startswith(digest)]
    if len(found) != 1:
        raise NotFound(f"No model with the digest {digest[:12]} is loaded on {host.name}.")
    return found[0]


def _check_is_ghost(
    here: Resident, host: Host, installed: tuple[Installed, ...], clock: Clock
) -> None:
    if here.digest == host.active_digest:
        raise Conflict(f"{here.name} is active on {host.name}. Switch to another model instead.")
    tags = host.pinned.values_list("tag", flat=True)
    pins = [find_installed(installed, ModelName.parse(tag)) for tag in tags]
    if any(pin is not None and pin.digest == here.digest for pin in pins):
        raise Conflict(f"{here.name} is pinned on {host.name}. Unpin it first.")
    if not ghost_text(here, installed, clock.now(), {}):
        raise Conflict(
            f"{here.name} is no ghost: its name still reaches it, and its time is not over."
        )


def _has_left(ollama: Ollama, hold: HostLease, digest: str) -> bool:
    """The answer to an unload comes before it happens (fact 1)."""
    until = hold.clock.monotonic() + PATIENCE_S
    for pause_s in itertools.chain(FIRST_INTERVALS_S, itertools.repeat(POLL_INTERVAL_S)):
        if find_digest(hold.call(ollama.resident), digest) is None:
            return True
        if hold.clock.monotonic() >= until:
            return False
        hold.clock.sleep(pause_s)
    raise AssertionError("repeat ends never")
