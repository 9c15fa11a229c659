"""Store readings when they change; otherwise store only their time, at intervals, to spare the
disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from switcher.audit.ledger import append, writing
from switcher.domain.memory import default_context
from switcher.domain.observed import Observation
from switcher.domain.servers import Server
from switcher.domain.states import OPEN
from switcher.domain.versions import numbers_of
from switcher.models import Host, Reading, SwitchEvent
from switcher.records.drifts import WATCHER
from switcher.records.memory import forget_sizes

STORE_INTERVAL_S = 15.0


@dataclass(frozen=True, slots=True)
class WatchedHost:
    """A host as the watcher reads it. `busy` is set while a switch runs there."""

    id: int
    name: str
    server: Server
    busy: bool


def watched_hosts() -> list[WatchedHost]:
    """Return all hosts to read, in two queries."""
    open_rows = SwitchEvent.objects.filter(state__in=OPEN)
    busy = set(open_rows.values_list("host_id", flat=True))
    columns = ("id", "name", "base_url", "sealed_credentials", "ca_certificate", "verify_tls")
    rows = Host.objects.filter(removed_at=None).only(*columns)
    return [WatchedHost(row.pk, row.name, row.server, row.pk in busy) for row in rows]


def store(host_id: int, seen: Observation, failures: int) -> None:
    """Store what a host was seen to hold. After a failed reading, the last good one stays, with its
    time."""
    facts: dict[str, object] = {"at": seen.at, "error": seen.error[:1000], "failures": failures}
    if seen.answered:
        facts |= {
            "resident": [r.to_json() for r in seen.resident],
            "installed": [i.to_json() for i in seen.installed],
            "version": seen.version,
            "latency_ms": seen.latency_ms,
            "answered_at": seen.at,
        }
    rows = Reading.objects.filter(host_id=host_id)
    known = rows.filter(version=seen.version) if seen.answered and seen.version else rows
    if not known.update(**facts):
        _store_new(host_id, facts)


def _store_new(host_id: int, facts: dict[str, Any]) -> None:
    """Store the first reading of a host, or the first of a new version of its server, with an
    entry."""
    with writing():
        host = Host.objects.filter(pk=host_id).first()
        if host is None:
            return
        before = Reading.objects.filter(host=host).values_list("version", flat=True).first() or ""
        Reading.objects.update_or_create(host=host, defaults=facts)
        after = facts.get("version") or before
        if before != after:
            if before:  # the limit of loaded models may be another one now
                Host.objects.filter(pk=host.pk).update(learned_max_loaded=None)
                versions = (numbers_of(before), numbers_of(str(after)))
                if len({default_context(host.vram_bytes, v) for v in versions}) > 1:
                    forget_sizes(host.pk, facts["at"])
            append("host.version", WATCHER, host=host.name, before=before, after=after)
