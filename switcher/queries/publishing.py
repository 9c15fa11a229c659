"""The published name of a host, as it is wanted and as it was last pointed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from switcher.models import Host
from switcher.observed import short_name


@dataclass(frozen=True, slots=True)
class Published:
    """`wanted` is the name that is set, empty for none. `name` is ours on the server, and was
    pointed at `tag` with `digest`; empty where none is."""

    wanted: str
    name: str
    tag: str
    digest: str
    active_tag: str
    active_digest: str

    @property
    def short(self) -> str:
        """The wanted name as people write it."""
        return short_name(self.wanted)

    @property
    def means(self) -> str:
        """What it was pointed at, as people write it."""
        return short_name(self.tag)

    @property
    def due(self) -> bool:
        """Whether what is set was not carried out yet, or was cut off in the middle."""
        if not self.wanted or not self.active_digest:
            return bool(self.name)
        return (self.name, self.digest) != (self.wanted, self.active_digest)


def published(host_id: int) -> Published:
    """Of one host, as it is stored now. Raises Host.DoesNotExist."""
    return published_of(Host.objects.get(pk=host_id))


def published_of(host: Any) -> Published:
    """Of a row of a host."""
    return Published(
        wanted=host.published_name,
        name=host.published_as,
        tag=host.published_tag,
        digest=host.published_digest,
        active_tag=host.active_tag,
        active_digest=host.active_digest,
    )
