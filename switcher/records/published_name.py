"""The published name: which name on a host is ours to point at its active model.

It is written down before it is pointed, and taken out of the record once it is gone: between the
two it is ours to write and to delete, whatever became of the process meanwhile; no other name is.
What it means is written down when it was seen to mean it, and not known in between.
"""

from __future__ import annotations

from typing import Any

from switcher.audit.ledger import append, writing
from switcher.domain.model_names import NO_NAME, ModelName
from switcher.models import Host, SwitchEvent
from switcher.records.model_copies import LeaseHolder, check_fence

POINTED, WITHDRAWN = "name.pointed", "name.withdrawn"


def claim(holder: LeaseHolder, name: ModelName, tag: ModelName, digest: str) -> None:
    """This name on the host is ours, and is about to be a copy of `tag` with this digest. Raises
    FenceLost."""
    with writing():
        host = check_fence(holder)
        _tell(holder, host, name, tag, digest)
        _set(host, name, tag, "")


def seen(holder: LeaseHolder, name: ModelName, tag: ModelName, digest: str) -> None:
    """This name on the host, ours, was seen to be such a copy. Raises FenceLost."""
    with writing():
        host = check_fence(holder)
        _tell(holder, host, name, tag, digest)
        _set(host, name, tag, digest)


def release(holder: LeaseHolder) -> None:
    """The name is gone from the host, or somebody else's by now. Raises FenceLost."""
    with writing():
        host = check_fence(holder)
        if host.published_as:
            facts = {"name": host.published_as, "model": host.published_tag}
            _entry(WITHDRAWN, holder, host, facts)
            _set(host, NO_NAME, NO_NAME, "")


def _tell(holder: LeaseHolder, host: Host, name: ModelName, tag: ModelName, digest: str) -> None:
    """Once for each pointing, however often it is tried."""
    known = host.published_digest == digest
    begun = not host.published_digest and host.published_tag == tag.full
    if host.published_as != name.full or not (known or begun):
        facts = {
            "name": name.full,
            "model": tag.full,
            "digest": digest,
            "previous": host.published_tag,
        }
        _entry(POINTED, holder, host, facts)


def _set(host: Host, name: ModelName, tag: ModelName, digest: str) -> None:
    values = {
        "published_as": name.full,
        "published_tag": tag.full,
        "published_digest": digest,
    }
    Host.objects.filter(pk=host.pk).update(**values)


def _entry(kind: str, holder: LeaseHolder, host: Host, facts: dict[str, Any]) -> None:
    switch = SwitchEvent.objects.filter(pk=holder.switch_id).first() if holder.switch_id else None
    append(
        kind,
        holder.actor,
        host=host.name,
        switch=switch,
        clock=holder.clock,
        fence=holder.fence,
        **facts,
    )
