"""What gateway processes report: that they are alive, and which closed gates they have seen."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now

from switcher.domain.inflight import DEAD_AFTER_S
from switcher.models import GatewayProcess

REMOVE_DEAD_AFTER_S = 60


def heartbeat(process: str) -> int:
    """Report that a process is alive, and return how many are alive.

    This uses the database's clock, because processes may run on several machines.
    """
    with transaction.atomic():
        if not GatewayProcess.objects.filter(name=process).update(seen_at=Now()):
            GatewayProcess.objects.create(name=process, seen_at=Now())
        alive_since = Now() - timedelta(seconds=DEAD_AFTER_S)
        return GatewayProcess.objects.filter(seen_at__gt=alive_since).count()


def report(process: str, gates: dict[int, tuple[int, int, int]]) -> None:
    """Report which closed gates a process has seen; it lets no more requests through them.

    `gates` maps the id of a host to the switch that closed its gate, the number of requests that
    the process still has in flight there, and how many of those it has not sent yet.
    """
    by_host = {str(host_id): list(gate) for host_id, gate in gates.items()}
    GatewayProcess.objects.filter(name=process).update(gates=by_host, seen_at=Now())


def remove_process(process: str) -> None:
    """Report that a process forwards nothing until its next heartbeat, and remove the rows of dead
    processes."""
    dead_since = Now() - timedelta(seconds=REMOVE_DEAD_AFTER_S)
    with transaction.atomic():
        GatewayProcess.objects.filter(name=process).delete()
        GatewayProcess.objects.filter(seen_at__lt=dead_since).delete()
