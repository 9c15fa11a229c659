"""Clean up model copies between switches: remove those that are not needed, make missing ones.

Without an open switch a restart changes nothing that a host serves (rule 8). The cleanup keeps to
that: it writes and deletes only our own copies, and never loads or unloads anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from switcher.audit.ledger import SERVER
from switcher.domain.clock import Clock, system
from switcher.domain.model_copies import copy_name, find_copy, find_name
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_installed
from switcher.domain.servers import Server
from switcher.ollama.client import Client, Ollama
from switcher.ollama.errors import ModelMissing
from switcher.queries.desired import WatchedHost, watched_host
from switcher.queries.model_copies import ModelCopyRow
from switcher.queries.readings import last_reading
from switcher.records import model_copies, pins
from switcher.records.leases import LeaseHolder
from switcher.switching.host_lease import HostLease, lease_host

log = logging.getLogger(__name__)

MAX_COPIES = 4  # at a time, so that it fits into one lease; the rest waits for the next one


@dataclass(frozen=True, slots=True)
class MissingCopy:
    """A copy of the model `tag` to make, from the name `source`, which points to its content
    now. If the two names are equal, somebody else has left the copy, and it is adopted."""

    source: ModelName
    name: ModelName
    tag: ModelName
    digest: str

    @property
    def exists(self) -> bool:
        return self.source == self.name


@dataclass(frozen=True, slots=True)
class CleanupPlan:
    """What to do on a host: copies to remove, and copies to make."""

    remove: tuple[ModelCopyRow, ...]
    make: tuple[MissingCopy, ...]

    def __bool__(self) -> bool:
        return bool(self.remove or self.make)


def clean_up_copies(
    host_id: int, clock: Clock = system, connect: Callable[[Server], Ollama] = Client
) -> None:
    """Remove the copies of models that are neither resident nor active, and make missing ones: of
    the active model, and of resident models that are pinned or recorded as copied.

    Makes five queries if the last reading shows that nothing is to be done. Otherwise it leases the
    host, takes a fresh reading, and makes at most 2 + 3 * MAX_COPIES quick calls. Raises Conflict
    if something else is at work on the host or time runs out, OllamaError kinds, and FenceLost;
    what is left is done another time.
    """
    host, seen = watched_host(host_id), last_reading(host_id)
    if host is None or seen is None:
        return
    if not plan_cleanup(host, seen.resident, seen.installed):
        return
    with lease_host(host_id, host.server, clock, connect) as lease:
        _clean_up(lease)


def _clean_up(lease: HostLease) -> None:
    host = watched_host(lease.host_id)
    if host is None:
        return
    resident, installed = lease.call(lease.ollama.resident), lease.call(lease.ollama.installed)
    plan = plan_cleanup(host, resident, installed)
    holder = lease.holder(SERVER)
    for row in plan.remove[:MAX_COPIES]:
        remove_copy(lease, holder, row)
    for missing in plan.make[:MAX_COPIES]:
        _make(lease, holder, missing)


def plan_cleanup(
    host: WatchedHost, resident: tuple[Resident, ...], installed: tuple[Installed, ...]
) -> CleanupPlan:
    """Return what to do on a host that holds these models."""
    kept = {r.digest for r in resident}
    active = host.desired.active
    if active is not None and not active.name.is_cloud:
        kept.add(active.digest)
    recorded = {row.digest: row for row in host.model_copies}
    wanted = {row.digest: row.tag for row in host.model_copies}
    wanted |= {m.digest: m.name for m in host.desired.models(installed) if m.digest}
    make = [
        _missing(digest, tag, recorded.get(digest), installed)
        for digest, tag in wanted.items()
        if digest in kept
    ]
    return CleanupPlan(
        remove=tuple(row for row in host.model_copies if row.digest not in kept),
        make=tuple(copy for copy in make if copy is not None),
    )


def _missing(
    digest: str, tag: ModelName, recorded: ModelCopyRow | None, installed: tuple[Installed, ...]
) -> MissingCopy | None:
    if recorded is None and (left := find_copy(installed, digest)) is not None:
        return MissingCopy(left.name, left.name, tag, digest)
    name = recorded.name if recorded else copy_name(tag, digest)
    existing = find_installed(installed, name)
    if existing is not None and (recorded is None or existing.digest == digest):
        return None  # it exists; or the name is somebody else's, which is not ours to touch
    source = find_name(digest, tag, installed)
    return MissingCopy(source, name, tag, digest) if source else None


def remove_copy(lease: HostLease, holder: LeaseHolder, row: ModelCopyRow) -> None:
    """Delete one of our copies on the host, then its record. Raises what `HostLease.call`
    raises."""
    try:
        lease.call(lease.ollama.delete, row.name.full)
    except ModelMissing:
        pass  # it was never made, or somebody else deleted it
    model_copies.release(holder, row.digest)


def _make(lease: HostLease, holder: LeaseHolder, missing: MissingCopy) -> None:
    pins.keep_digest(holder, missing.tag, missing.digest)
    is_ours = model_copies.claim(holder, missing.digest, missing.tag, missing.name)
    if not is_ours or missing.exists:
        return
    lease.call(lease.ollama.copy, missing.source.full, missing.name.full)
    made = find_installed(lease.call(lease.ollama.installed), missing.name)
    if made is not None and made.digest == missing.digest:
        return
    log.warning("%s was pulled again while it was copied: no copy is kept", missing.tag)
    row = ModelCopyRow(missing.digest, missing.tag, missing.name, lease.clock.now())
    remove_copy(lease, holder, row)
