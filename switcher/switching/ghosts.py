"""Freeing a ghost: unloading what is resident and not reached by its own name any more, or should
have left long ago (facts 23, 24), through another name that means its content."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from switcher.clock import Clock, system
from switcher.drift import ghost_text
from switcher.errors import BadRequest, Conflict, NotFound, SwitcherError
from switcher.handles import SHORT_DIGEST, known_as, reaching, what_remains
from switcher.models import Host
from switcher.observed import Installed, Resident, find_digest, find_installed, short_name
from switcher.ollama.client import Client, Ollama
from switcher.plans import gb
from switcher.queries.handles import handles_of
from switcher.records import handles
from switcher.records.handles import Holder
from switcher.records.ledger import Actor
from switcher.switching import wake
from switcher.switching.residency import FIRST_POLLS_S, POLL_S
from switcher.switching.tidy import remove
from switcher.switching.upkeep import Hold, hold_host
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
        with hold_host(host.pk, new_owner(), clock, wait_s=WAIT_S) as hold:
            ollama = connect(host.base_url)
            try:
                return _free_held(host.pk, digest, actor, hold, ollama)
            finally:
                ollama.close()
    finally:
        wake.worker()  # a switch that was asked for meanwhile waits for the lease


def _free_held(host_id: int, digest: str, actor: Actor, hold: Hold, ollama: Ollama) -> Freed:
    host = Host.objects.get(pk=host_id)
    ours = handles_of(host_id)
    resident = hold.call(ollama.resident)
    installed = hold.call(ollama.installed)
    here = _find(known_as(resident, {h.name: h.tag for h in ours}), digest, host)
    _check_is_ghost(here, host, installed, hold.clock)
    way = reaching(here.digest, here.name, installed)
    if not way:
        raise Conflict(what_remains(here, host.name, hold.clock.now()))
    freed = Freed(host.name, short_name(here.name), here.digest, here.size_vram or here.size)
    holder = Holder(host_id, hold.fence, actor, clock=hold.clock)
    facts = {"model": here.name, "name": way, "bytes": freed.bytes}
    handles.tell("ghost.unload-asked", holder, here.digest, **facts)
    hold.call(ollama.unload, way)
    if not _has_left(ollama, hold, here.digest):
        raise Conflict(f"{freed.model} is busy: it leaves when its requests have ended.")
    handles.tell("ghost.freed", holder, here.digest, **facts)
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
    short = short_name(here.name)
    if here.digest == host.active_digest:
        raise Conflict(f"{short} is active on {host.name}. Switch to another model instead.")
    pins = [find_installed(installed, tag) for tag in host.preloaded.values_list("tag", flat=True)]
    if any(pin is not None and pin.digest == here.digest for pin in pins):
        raise Conflict(f"{short} is pinned on {host.name}. Unpin it first.")
    if not ghost_text(here, installed, clock.now(), {}):
        raise Conflict(f"{short} is no ghost: its name still reaches it, and its time is not over.")


def _has_left(ollama: Ollama, hold: Hold, digest: str) -> bool:
    """The answer to an unload comes before it happens (fact 1)."""
    until = hold.clock.monotonic() + PATIENCE_S
    for pause_s in itertools.chain(FIRST_POLLS_S, itertools.repeat(POLL_S)):
        if find_digest(hold.call(ollama.resident), digest) is None:
            return True
        if hold.clock.monotonic() >= until:
            return False
        hold.clock.sleep(pause_s)
    raise AssertionError("repeat ends never")
