"""Observed state: stored when it changes, its time alone at most every 15 s (spare the disk)."""

from __future__ import annotations

from django.db import transaction

from switcher.models import Host, Reading
from switcher.observed import Observation

TIME_EVERY_S = 15.0


def store(host_id: int, seen: Observation, failures: int) -> None:
    """Keep what a host was seen to hold. After a failure the last good facts stay, dated."""
    facts: dict[str, object] = {"at": seen.at, "error": seen.error[:1000], "failures": failures}
    if seen.answered:
        facts |= {
            "resident": [r.to_json() for r in seen.resident],
            "installed": [i.to_json() for i in seen.installed],
            "version": seen.version,
            "latency_ms": seen.latency_ms,
            "answered_at": seen.at,
        }
    with transaction.atomic():
        if Reading.objects.filter(host_id=host_id).update(**facts):
            return
        if Host.objects.filter(pk=host_id).exists():
            Reading.objects.create(host_id=host_id, **facts)
