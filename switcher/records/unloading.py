"""Record that no model should be active on a host any more, and that its model left the memory."""

from __future__ import annotations

from switcher.audit.ledger import writing
from switcher.models import Host
from switcher.records.leases import LeaseHolder


def deactivate(holder: LeaseHolder, reason: str) -> None:
    """Make no model the active one. From then on its absence is no drift, and nothing repairs it.
    Raises FenceLost."""
    with writing():
        host = holder.lock_host()
        facts = {"previous": host.active_tag, "previous_digest": host.active_digest}
        Host.objects.filter(pk=host.pk).update(
            active_profile=None,
            active_tag="",
            active_digest="",
            active_spec=None,
            active_since=None,
            degraded="",
        )
        holder.append("host.activated", host, model="", digest="", reason=reason, **facts)


def record_unloaded(holder: LeaseHolder, model: str, digest: str, freed_bytes: int) -> None:
    """Record that a model has left the memory. Raises FenceLost."""
    with writing():
        facts = {"model": model, "digest": digest, "bytes": freed_bytes}
        holder.append("host.unloaded", holder.lock_host(), **facts)
