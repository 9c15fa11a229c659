"""The published name of a host, as it is wanted and as it was last pointed."""

from __future__ import annotations

from switcher.domain.published_name import PublishedName
from switcher.models import Host


def published(host_id: int) -> PublishedName:
    """Return the published name of a host as it is stored now. Raises Host.DoesNotExist."""
    return PublishedName.of(Host.objects.get(pk=host_id))
