"""What gateway processes report: that they are alive, and which closed gates they have seen."""

from __future__ import annotations

from django.db import transaction

from switcher.models import GatewayProcess
from switcher.models.shared_time import shared_now

REMOVE_DEAD_AFTER_S = 60


def heartbeat(process: str) -> int:
    """Report that a process is alive, and return how many are alive.

    This uses the shared time, because processes may run on several machines.
    """
    with transaction.atomic():
        now = shared_now()
        if not GatewayProcess.objects.filter(name=process).update(seen_at=now):
            GatewayProcess.objects.create(name=process, seen_at=now)
        return GatewayProcess.alive(now).count()


def report(process: str, gates: dict[int, tuple[int, int, int]]) -> None:
    """Report which closed gates a process has seen; it lets no more requests through them.

    `gates` maps the id of a host to the switch that closed its gate, the number of requests that
    the process still has in flight there, and how many of those it has not sent yet.
    """
    by_host = {str(host_id): list(gate) for host_id, gate in gates.items()}
    GatewayProcess.objects.filter(name=process).update(gates=by_host, seen_at=shared_now())


def remove_process(process: str) -> None:
    """Report that a process forwards nothing until its next heartbeat, and remove the rows of dead
    processes."""
    with transaction.atomic():
        GatewayProcess.objects.filter(name=process).delete()
        alive = GatewayProcess.alive(shared_now(), within_s=REMOVE_DEAD_AFTER_S)
        GatewayProcess.objects.exclude(pk__in=alive).delete()
