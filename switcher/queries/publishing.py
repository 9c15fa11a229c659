"""The published name of a host, as it is wanted and as it was last pointed."""

from __future__ import annotations

from switcher.models import Host
from switcher.published import Published


def published(host_id: int) -> Published:
    """Of one host, as it is stored now. Raises Host.DoesNotExist."""
    return Published.of(Host.objects.get(pk=host_id))
