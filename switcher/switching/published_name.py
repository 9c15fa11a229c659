"""Choosing the published name of a host, and carrying it out between switches."""

from __future__ import annotations

from collections.abc import Callable

from switcher.audit.ledger import SERVER, Actor
from switcher.domain.clock import Clock, system
from switcher.domain.errors import SwitcherError
from switcher.ollama.client import Client, Ollama
from switcher.queries.desired import watched_host
from switcher.queries.hosts import published_name as published
from switcher.queries.readings import last_reading
from switcher.records.clients import set_published
from switcher.records.model_copies import LeaseHolder
from switcher.switching import wake
from switcher.switching.host_lease import lease_host
from switcher.switching.published_name_steps import settle
from switcher.switching.worker import new_owner


def publish(
    host_id: int,
    name: str,
    actor: Actor,
    clock: Clock = system,
    connect: Callable[[str], Ollama] = Client,
) -> str:
    """Publish the active model of a host by a name; empty: by none. Gives why that could not be
    carried out at once, empty if it was; the watcher then does it as soon as it can. Raises
    BadRequest, NotFound; then nothing was changed."""
    set_published(host_id, name, actor, clock)
    try:
        settle_name(host_id, actor, clock, connect)
    except SwitcherError as exc:
        return exc.text
    now = published(host_id)
    if now.wanted and not now.active_digest:
        return "No model is active yet."
    return "The host has not answered yet." if now.due else ""


def settle_name(
    host_id: int,
    actor: Actor = SERVER,
    clock: Clock = system,
    connect: Callable[[str], Ollama] = Client,
    mend: bool = False,
) -> None:
    """Carry out which name is published on a host; with `mend` also where somebody else pointed
    it elsewhere. Raises as `tidy_handles`, and NotPublished."""
    host, seen = watched_host(host_id), last_reading(host_id)
    if host is None or seen is None or seen.error or not (mend or host.name_is_due):
        return
    try:
        with lease_host(host_id, new_owner(), clock) as hold:
            ollama = connect(host.base_url)
            try:
                settle(ollama, hold, LeaseHolder(host_id, hold.fence, actor, clock=clock), mend)
            finally:
                ollama.close()
    finally:
        wake.worker()
