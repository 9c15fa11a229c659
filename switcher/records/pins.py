"""Records which content of a pinned model was last seen loaded under its name.

It stays known when the model leaves the memory, and its copy is removed.
"""

from __future__ import annotations

from switcher.audit.ledger import writing
from switcher.domain.model_names import ModelName
from switcher.models import Pin
from switcher.records.leases import LeaseHolder


def keep_digest(holder: LeaseHolder, name: ModelName, digest: str) -> None:
    """Record the content of a model, if it is pinned. Raises FenceLost."""
    pins = Pin.objects.filter(host_id=holder.host_id).exclude(digest=digest)
    changed = [pin.pk for pin in pins.select_related("profile") if _is_of(pin, name)]
    if changed:
        with writing():
            holder.lock_host()
            Pin.objects.filter(pk__in=changed).update(digest=digest)


def _is_of(pin: Pin, name: ModelName) -> bool:
    return ModelName.parse(pin.profile.tag) == name
