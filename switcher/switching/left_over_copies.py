"""Remove model copies that Switchboard's record does not list.

Such copies were left by an earlier data directory, another tool or a process that was killed. Each
keeps the files of its model on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from switcher.audit.ledger import Actor
from switcher.domain.clock import Clock, system
from switcher.domain.errors import SwitcherError
from switcher.domain.model_copies import left_over
from switcher.domain.observed import Installed, Resident
from switcher.domain.servers import Server
from switcher.models import Host
from switcher.ollama.client import Client, Ollama
from switcher.ollama.errors import ModelMissing
from switcher.queries.model_copies import model_copies_of
from switcher.records import model_copies
from switcher.switching.host_lease import HostLease, lease_host

WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class RemovedCopies:
    """The names of the copies that were removed, and of those that were kept."""

    host: str
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    error: str = ""

    @property
    def text(self) -> str:
        """Return the result as sentences."""
        if not self.removed and not self.kept:
            return self.error or f"{self.host} holds no copies that others have left."
        number = len(self.removed)
        texts = [f"{number} left-over {'copy' if number == 1 else 'copies'} removed."]
        if self.kept:
            texts.append(
                f"{', '.join(self.kept)} stayed: no other name reaches the loaded model. "
                "Free that first."
            )
        return " ".join([*texts, self.error]).rstrip()


def remove_left_over(
    host: Host,
    actor: Actor,
    clock: Clock = system,
    connect: Callable[[Server], Ollama] = Client,
) -> RemovedCopies:
    """Remove the left-over copies of a host, each with an audit entry. Those by which alone a
    loaded model can be reached stay.

    Raises Conflict if something else is at work on the host, and OllamaError kinds.
    """
    with lease_host(host.pk, host.server, clock, connect, wait_s=WAIT_S) as lease:
        return _remove(lease, host, actor)


def _remove(lease: HostLease, host: Host, actor: Actor) -> RemovedCopies:
    resident, installed = lease.call(lease.ollama.resident), lease.call(lease.ollama.installed)
    found = left_over(installed, (copy.name for copy in model_copies_of(host.pk)))
    needed = [row for row in found if _is_needed(row, found, resident, installed)]
    kept = tuple(row.name.full for row in needed)
    removed: list[str] = []
    holder = lease.holder(actor)
    try:
        for row in found:
            if row in needed:
                continue
            model_copies.record_drop(holder, row.digest, row.name)
            try:
                lease.call(lease.ollama.delete, row.name.full)
            except ModelMissing:
                pass  # somebody else deleted it
            removed.append(row.name.full)
    except SwitcherError as exc:
        if not removed:
            raise
        return RemovedCopies(host.name, tuple(removed), kept, exc.text)
    return RemovedCopies(host.name, tuple(removed), kept)


def _is_needed(
    row: Installed,
    found: tuple[Installed, ...],
    resident: tuple[Resident, ...],
    installed: tuple[Installed, ...],
) -> bool:
    """Return whether only left-over copies reach the loaded model with this content."""
    if all(r.digest != row.digest for r in resident):
        return False
    return all(i in found for i in installed if i.digest == row.digest)
