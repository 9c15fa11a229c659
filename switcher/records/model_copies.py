"""Which names on a host are copies of ours: claimed before one is made, released once it is gone.

Between the two the name is ours to write and to delete, whatever became of the process meanwhile;
no other name ever is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system
from switcher.domain.errors import FenceLost
from switcher.domain.model_names import ModelName
from switcher.models import Host, Lease, ModelCopy, SwitchEvent


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """Who holds the host's lease, and for whom it acts; `switch_id` where it runs a switch."""

    host_id: int
    fence: int
    actor: Actor
    switch_id: int | None = None
    clock: Clock = system


def claim(holder: LeaseHolder, digest: str, tag: ModelName, name: ModelName) -> bool:
    """This name on the host is to be a copy of `tag` with this digest. False where it stands for
    another digest. Raises FenceLost."""
    with writing():
        host = check_fence(holder)
        if ModelCopy.objects.filter(host=host, name=name.full).exclude(digest=digest).exists():
            return False
        values = {"tag": tag.full, "name": name.full, "made_at": holder.clock.now()}
        _, made = ModelCopy.objects.get_or_create(host=host, digest=digest, defaults=values)
        if made:
            _entry("handle.claimed", holder, host, digest, model=tag.full, name=name.full)
    return True


def release(holder: LeaseHolder, digest: str) -> None:
    """The copy is gone from the host. Raises FenceLost."""
    with writing():
        host = check_fence(holder)
        row = ModelCopy.objects.filter(host=host, digest=digest).first()
        if row is not None:
            row.delete()
            _entry("handle.released", holder, host, digest, model=row.tag, name=row.name)


def tell(kind: str, holder: LeaseHolder, digest: str, **facts: Any) -> None:
    """Write down what is done about a ghost (`ghost.unload-asked`, `ghost.freed`). Raises
    FenceLost."""
    with writing():
        _entry(kind, holder, check_fence(holder), digest, **facts)


def check_fence(holder: LeaseHolder) -> Host:
    lease = Lease.objects.select_for_update().filter(host_id=holder.host_id, fence=holder.fence)
    if not lease.exists():
        raise FenceLost("The lease on the host is not ours any more.")
    return Host.objects.get(pk=holder.host_id)


def _entry(kind: str, holder: LeaseHolder, host: Host, digest: str, **facts: Any) -> None:
    switch = SwitchEvent.objects.filter(pk=holder.switch_id).first() if holder.switch_id else None
    append(
        kind,
        holder.actor,
        host=host.name,
        switch=switch,
        clock=holder.clock,
        digest=digest,
        fence=holder.fence,
        **facts,
    )
