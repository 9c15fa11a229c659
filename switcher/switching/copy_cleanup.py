"""Clean up model copies between switches: remove what a dead process left behind, make what is
missing is made.

With no switch open a restart changes nothing that a host serves (rule 8). This keeps to it: it
writes and deletes copies of our own alone, and never loads or unloads anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from switcher.audit.ledger import SERVER
from switcher.domain.clock import Clock, system
from switcher.domain.model_copies import copy_name, reaching
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_installed
from switcher.ollama.client import Client, Ollama
from switcher.ollama.errors import ModelMissing
from switcher.queries.desired import WatchedHost, watched_host
from switcher.queries.model_copies import ModelCopyRow
from switcher.queries.readings import last_reading
from switcher.records import model_copies
from switcher.records.model_copies import LeaseHolder
from switcher.switching import wake
from switcher.switching.host_lease import HostLease, lease_host
from switcher.switching.worker import new_owner

log = logging.getLogger(__name__)

MOST = 4  # copies at a time, so that it fits into one lease; the rest waits for the next one


@dataclass(frozen=True, slots=True)
class Missing:
    """A copy that is to be made, from a name that means its content now."""

    source: ModelName
    name: ModelName
    tag: ModelName
    digest: str


@dataclass(frozen=True, slots=True)
class CleanupPlan:
    """What there is to be done on a host."""

    remove: tuple[ModelCopyRow, ...]
    make: tuple[Missing, ...]

    def __bool__(self) -> bool:
        return bool(self.remove or self.make)


def clean_up_copies(
    host_id: int, clock: Clock = system, connect: Callable[[str], Ollama] = Client
) -> None:
    """Remove the copies of what is not resident any more, and make those of what is active,
    pinned or held, and resident.

    Five queries where nothing is to be done, as the last reading tells. Else under the host's
    lease, after a fresh look, with at most 2 + 3 * MOST quick calls that all end within the
    lease. Raises Conflict where something else is at work there or time runs out, OllamaError
    kinds, FenceLost; what was begun then is finished another time.
    """
    host, seen = watched_host(host_id), last_reading(host_id)
    if host is None or seen is None or seen.error:
        return
    if not plan_cleanup(host, seen.resident, seen.installed):
        return
    try:
        with lease_host(host_id, new_owner(), clock) as hold:
            ollama = connect(host.base_url)
            try:
                _tidy_held(ollama, hold)
            finally:
                ollama.close()
    finally:
        wake.worker()  # a switch that was asked for meanwhile waits for the lease


def _tidy_held(ollama: Ollama, hold: HostLease) -> None:
    host = watched_host(hold.host_id)
    if host is None:
        return
    resident, installed = hold.call(ollama.resident), hold.call(ollama.installed)
    todo = plan_cleanup(host, resident, installed)
    holder = LeaseHolder(hold.host_id, hold.fence, SERVER, clock=hold.clock)
    for row in todo.remove[:MOST]:
        remove(ollama, hold, holder, row)
    for missing in todo.make[:MOST]:
        _make(ollama, hold, holder, missing)


def plan_cleanup(
    host: WatchedHost, resident: tuple[Resident, ...], installed: tuple[Installed, ...]
) -> CleanupPlan:
    """What is to be done where a host holds this. Pure."""
    here = {r.digest for r in resident}
    known = {h.digest: h for h in host.model_copies}
    held = {h.digest: h.tag for h in host.model_copies}
    held |= {w.digest: w.name for w in host.desired.wanted(installed) if w.digest}
    make = [_missing(d, tag, known.get(d), installed) for d, tag in held.items() if d in here]
    return CleanupPlan(
        remove=tuple(h for h in host.model_copies if h.digest not in here),
        make=tuple(m for m in make if m is not None),
    )


def _missing(
    digest: str, tag: ModelName, known: ModelCopyRow | None, installed: tuple[Installed, ...]
) -> Missing | None:
    name = known.name if known else copy_name(tag, digest)
    there = find_installed(installed, name)
    if there is not None and (known is None or there.digest == digest):
        return None  # it is there; or somebody else's is, which is not ours to touch
    source = reaching(digest, tag, installed)
    return Missing(source, name, tag, digest) if source else None


def remove(ollama: Ollama, hold: HostLease, holder: LeaseHolder, row: ModelCopyRow) -> None:
    """Take a copy of ours off the host, then out of the record. Raises as `Hold.call`."""
    try:
        hold.call(ollama.delete, row.name.full)
    except ModelMissing:
        pass  # it was never made, or somebody else was first
    model_copies.release(holder, row.digest)


def _make(ollama: Ollama, hold: HostLease, holder: LeaseHolder, missing: Missing) -> None:
    if not model_copies.claim(holder, missing.digest, missing.tag, missing.name):
        return
    hold.call(ollama.copy, missing.source.full, missing.name.full)
    made = find_installed(hold.call(ollama.installed), missing.name)
    if made is not None and made.digest == missing.digest:
        return
    log.warning("%s was pulled again while it was copied: no copy is held", missing.tag)
    row = ModelCopyRow(missing.digest, missing.tag, missing.name, hold.clock.now())
    remove(ollama, hold, holder, row)
