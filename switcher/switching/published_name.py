"""Set the published name of a host, and apply the setting between switches."""

from __future__ import annotations

from collections.abc import Callable

from switcher.audit.ledger import SERVER, Actor
from switcher.domain.clock import Clock, system
from switcher.domain.errors import SwitcherError
from switcher.domain.servers import Server
from switcher.ollama.client import Client, Ollama
from switcher.queries.desired import watched_host
from switcher.queries.hosts import published_name
from switcher.queries.readings import last_reading
from switcher.records.clients import set_published
from switcher.switching.host_lease import lease_host
from switcher.switching.published_name_steps import arrange_published_name


def publish(
    host_id: int,
    name: str,
    actor: Actor,
    clock: Clock = system,
    connect: Callable[[Server], Ollama] = Client,
) -> str:
    """Publish the active model of a host under a name; an empty name ends that.

    Return why the setting could not be applied at once, empty if it was; in the former case the
    watcher applies it as soon as possible. Raises BadRequest or NotFound if nothing was changed.
    """
    set_published(host_id, name, actor, clock)
    try:
        apply_published_name(host_id, actor, clock, connect)
    except SwitcherError as exc:
        return exc.text
    now = published_name(host_id)
    if now.wanted and not now.active_digest:
        return "No model is active yet."
    return "The host has not answered yet." if now.due else ""


def apply_published_name(
    host_id: int,
    actor: Actor = SERVER,
    clock: Clock = system,
    connect: Callable[[Server], Ollama] = Client,
    mend: bool = False,
) -> None:
    """Apply the setting on the host if that has not been done; with `mend`, also if somebody else
    moved or removed the name. Raises what `clean_up_copies` raises, and NotPublished."""
    host, seen = watched_host(host_id), last_reading(host_id)
    if host is None or seen is None or seen.error or not (mend or host.name_is_due):
        return
    with lease_host(host_id, host.server, clock, connect) as lease:
        arrange_published_name(lease, lease.holder(actor), mend)
