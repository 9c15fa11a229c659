"""Unload the active model of a host on purpose, without a replacement.

First the host is recorded to have no active model: whatever happens then, its absence is no drift,
and the watcher does not bring it back. Only then is it unloaded.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from switcher.audit.ledger import Actor
from switcher.domain.clock import Clock, system
from switcher.domain.errors import Conflict, SwitcherError
from switcher.domain.model_copies import find_name, with_model_names
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_digest
from switcher.domain.published_name import PublishedName
from switcher.domain.servers import Server
from switcher.domain.wording import gb
from switcher.models import Host
from switcher.ollama.client import Client, Ollama
from switcher.queries.model_copies import tags_of
from switcher.records import unloading
from switcher.records.leases import LeaseHolder
from switcher.switching.host_lease import HostLease, lease_host
from switcher.switching.published_name_steps import arrange_published_name
from switcher.switching.residency import FIRST_INTERVALS_S, POLL_INTERVAL_S

log = logging.getLogger(__name__)

WAIT_S = 1.0
UNLOAD_TIMEOUT_S = 5.0  # with the calls before and after it, within one lease
# The gateway's processes learn within this time that no model is active.
TRANSIT_S = 0.25


@dataclass(frozen=True, slots=True)
class UnloadPlan:
    """What unloading the active model of a host will do. `bytes` is 0 if it is not loaded."""

    host: str
    model: str
    digest: str
    bytes: int
    loaded: bool
    published: str  # the name that is removed from the server
    keep: tuple[str, ...]  # what stays loaded

    @property
    def text(self) -> str:
        """Return the plan as sentences."""
        what = (
            f"{self.model} leaves {self.host}, and {gb(self.bytes)} GB are free again."
            if self.loaded
            else f"{self.model} is not loaded on {self.host}; it is only no longer active."
        )
        stays = f" {', '.join(self.keep)} stay loaded." if self.keep else ""
        name = f" The published name {self.published} is removed." if self.published else ""
        return (
            f"{what}{stays}{name} No model is active then: the gateway answers 503 until the next "
            "switch, and nothing loads it again by itself."
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"keep": list(self.keep), "text": self.text}


@dataclass(frozen=True, slots=True)
class Unloaded:
    """A host without an active model. `is_gone` is false while the model's last requests run."""

    plan: UnloadPlan
    is_gone: bool

    @property
    def text(self) -> str:
        plan = self.plan
        if not self.is_gone:
            return (
                f"No model is active on {plan.host} any more. {plan.model} is still busy: it "
                "leaves when its requests have ended."
            )
        freed = f" {gb(plan.bytes)} GB are free again." if plan.bytes else ""
        return f"No model is active on {plan.host} any more; {plan.model} is unloaded.{freed}"


def plan_unload(host: Host, connect: Callable[[Server], Ollama] = Client) -> UnloadPlan:
    """Plan it from a fresh reading, and change nothing. Raises Conflict if no model is active, and
    OllamaError kinds."""
    ollama = connect(host.server)
    try:
        return _plan(host, ollama.resident())
    finally:
        ollama.close()


def _plan(host: Host, resident: tuple[Resident, ...]) -> UnloadPlan:
    if not host.active_digest:
        raise Conflict(f"No model is active on {host.name}.")
    named = with_model_names(resident, tags_of(host.pk, resident))
    loaded = find_digest(named, host.active_digest)
    return UnloadPlan(
        host=host.name,
        model=ModelName.parse(host.active_tag).full,
        digest=host.active_digest,
        bytes=loaded.bytes if loaded else 0,
        loaded=loaded is not None,
        published=PublishedName.of(host).name.short,
        keep=tuple(r.name.short for r in named if r.digest != host.active_digest),
    )


def unload_active(
    host: Host,
    actor: Actor,
    reason: str = "",
    clock: Clock = system,
    connect: Callable[[Server], Ollama] = Client,
) -> Unloaded:
    """Make no model active, unload the one that was, and wait until it is gone.

    Raises Conflict if none is active or something else is at work on the host, and OllamaError
    kinds if the host does not answer; then nothing was changed.
    """
    with lease_host(host.pk, host.server, clock, connect, wait_s=WAIT_S) as lease:
        row = Host.objects.get(pk=host.pk)
        plan = _plan(row, lease.call(lease.ollama.resident))
        installed = lease.call(lease.ollama.installed)
        holder = lease.holder(actor)
        unloading.deactivate(holder, reason)
        is_gone = _unload(lease, holder, row, plan, installed)
    return Unloaded(plan, is_gone)


def _unload(
    lease: HostLease,
    holder: LeaseHolder,
    host: Host,
    plan: UnloadPlan,
    installed: tuple[Installed, ...],
) -> bool:
    """Unload the model, and return whether it is gone. No model is active already, so an error is
    not the caller's."""
    try:
        arrange_published_name(lease, holder, mend=False)
        if plan.loaded and not _is_unloaded(lease, host, installed):
            return False
    except SwitcherError as exc:
        log.warning("%s was not unloaded from %s: %s", plan.model, plan.host, exc.text)
        return False
    unloading.record_unloaded(holder, plan.model, plan.digest, plan.bytes)
    return True


def _is_unloaded(lease: HostLease, host: Host, installed: tuple[Installed, ...]) -> bool:
    """Return whether the model left in time. An unload is answered before it happens (fact 1), and
    a request on its way may load it again."""
    name = find_name(host.active_digest, ModelName.parse(host.active_tag), installed)
    if not name:
        return False  # no name reaches it (fact 24)
    lease.clock.sleep(TRANSIT_S)
    lease.call(lease.ollama.unload, name.full)
    until = lease.clock.monotonic() + UNLOAD_TIMEOUT_S
    for pause_s in itertools.chain(FIRST_INTERVALS_S, itertools.repeat(POLL_INTERVAL_S)):
        if find_digest(lease.call(lease.ollama.resident), host.active_digest) is None:
            return True
        if lease.clock.monotonic() >= until:
            return False
        lease.clock.sleep(pause_s)
    raise AssertionError("repeat never ends")
