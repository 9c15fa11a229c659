"""What the gateway's processes tell: that they live, and which closed gates they know of."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now

from switcher.domain.inflight import DEAD_AFTER_S
from switcher.models import GatewayProcess


def beat(name: str) -> int:
    """Say that this process lives; gives how many do. The database's clock counts, as processes
    may be far apart."""
    with transaction.atomic():
        if not GatewayProcess.objects.filter(name=name).update(seen_at=Now()):
            GatewayProcess.objects.create(name=name, seen_at=Now())
        alive = Now() - timedelta(seconds=DEAD_AFTER_S)
        return GatewayProcess.objects.filter(seen_at__gt=alive).count()


def tell(name: str, gates: dict[int, tuple[int, int, int]]) -> None:
    """Say which gates this process has seen closed: by host id, the switch that closed it, the
    requests that are still under way there, and those of them that are not written to the host
    yet. From now on it lets none through."""
    told = {str(host_id): list(gate) for host_id, gate in gates.items()}
    GatewayProcess.objects.filter(name=name).update(gates=told, seen_at=Now())


def leave(name: str) -> None:
    """Say that this process passes nothing on until it beats again; the dead go with it."""
    dead = Now() - timedelta(seconds=60)
    with transaction.atomic():
        GatewayProcess.objects.filter(name=name).delete()
        GatewayProcess.objects.filter(seen_at__lt=dead).delete()
