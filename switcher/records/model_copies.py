"""Records which names on a host are our model copies: claimed before the copy is made, released
once it is gone.

In between, the name is ours to write and to delete, even if the process dies. Another copy is
deleted only if a person asks for it.
"""

from __future__ import annotations

from typing import Any

from switcher.audit.ledger import writing
from switcher.domain.model_names import ModelName
from switcher.models import ModelCopy
from switcher.records.leases import LeaseHolder


def claim(holder: LeaseHolder, digest: str, tag: ModelName, name: ModelName) -> bool:
    """Record that `name` will be a copy of `tag` with this digest. Return False if the name is
    recorded for another digest. Raises FenceLost."""
    with writing():
        host = holder.lock_host()
        if ModelCopy.objects.filter(host=host, name=name.full).exclude(digest=digest).exists():
            return False
        values = {"tag": tag.full, "name": name.full, "made_at": holder.clock.now()}
        _, made = ModelCopy.objects.get_or_create(host=host, digest=digest, defaults=values)
        if made:
            holder.append("handle.claimed", host, digest=digest, model=tag.full, name=name.full)
    return True


def release(holder: LeaseHolder, digest: str) -> None:
    """Record that the copy is gone from the host. Raises FenceLost."""
    with writing():
        host = holder.lock_host()
        row = ModelCopy.objects.filter(host=host, digest=digest).first()
        if row is not None:
            row.delete()
            holder.append("handle.released", host, digest=digest, model=row.tag, name=row.name)


def record_drop(holder: LeaseHolder, digest: str, name: ModelName) -> None:
    """Record that a copy that is not ours is about to be removed. Raises FenceLost."""
    with writing():
        holder.append("handle.dropped", holder.lock_host(), digest=digest, model=name.full)


def record_ghost(kind: str, holder: LeaseHolder, digest: str, **facts: Any) -> None:
    """Append an entry about a ghost (`ghost.unload-asked`, `ghost.freed`). Raises FenceLost."""
    with writing():
        holder.append(kind, holder.lock_host(), digest=digest, **facts)
