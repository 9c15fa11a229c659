"""The published name: which name on a host is ours to point at its active model.

It is recorded before it is pointed, and removed from the record once it is gone. In between, it is
ours to write and to delete, even if the process dies; no other name is. The digest that it points
to is recorded once that was seen, and is empty until then.
"""

from __future__ import annotations

from switcher.audit.ledger import writing
from switcher.domain.model_names import NO_NAME, ModelName
from switcher.models import Host
from switcher.records.leases import LeaseHolder


def claim(holder: LeaseHolder, name: ModelName, tag: ModelName, digest: str) -> None:
    """Record that `name` is ours, and about to be a copy of `tag` with this digest. Raises
    FenceLost."""
    _record(holder, name, tag, digest, seen=False)


def confirm(holder: LeaseHolder, name: ModelName, tag: ModelName, digest: str) -> None:
    """Record that our name `name` was seen to point to this digest. Raises FenceLost."""
    _record(holder, name, tag, digest, seen=True)


def release(holder: LeaseHolder) -> None:
    """Record that the name is gone from the host, or belongs to somebody else now. Raises
    FenceLost."""
    with writing():
        host = holder.lock_host()
        if host.published_as:
            model = host.published_tag
            holder.append("name.withdrawn", host, name=host.published_as, model=model)
            _save(host, NO_NAME, NO_NAME, "")


def _record(
    holder: LeaseHolder, name: ModelName, tag: ModelName, digest: str, *, seen: bool
) -> None:
    with writing():
        host = holder.lock_host()
        if not _is_recorded(host, name, tag, digest):
            before = host.published_tag
            holder.append(
                "name.pointed", host, name=name.full, model=tag.full, digest=digest, previous=before
            )
        _save(host, name, tag, digest if seen else "")


def _is_recorded(host: Host, name: ModelName, tag: ModelName, digest: str) -> bool:
    """Return whether the trail already has an entry about pointing the name at this content. It
    gets only one, however often that is tried."""
    known = host.published_digest == digest
    begun = not host.published_digest and host.published_tag == tag.full
    return host.published_as == name.full and (known or begun)


def _save(host: Host, name: ModelName, tag: ModelName, digest: str) -> None:
    Host.objects.filter(pk=host.pk).update(
        published_as=name.full, published_tag=tag.full, published_digest=digest
    )
