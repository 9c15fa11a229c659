"""Audit entries: append only, canonical, in the transaction of the change they tell of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction
from django.dispatch import Signal

from switcher.clock import Clock, system
from switcher.models import AuditEntry, Origin, SwitchEvent

changed = Signal()


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and from where. `source` is page, api, command, admin, watcher or server."""

    name: str
    source: str
    user_id: int | None = None
    ip: str | None = None
    agent: str = ""


SERVER = Actor("switchboard", "server")


def append(
    kind: str,
    actor: Actor,
    *,
    host: str = "",
    switch: SwitchEvent | None = None,
    clock: Clock = system,
    **facts: Any,
) -> AuditEntry:
    """Append one entry. Only inside a transaction: an entry alone tells of nothing."""
    assert transaction.get_connection().in_atomic_block, "an entry is written with its change"
    at = clock.now()
    body = {
        "at": at.isoformat(),
        "kind": kind,
        "actor": actor.name,
        "source": actor.source,
        "host": host,
        "switch": switch.pk if switch else None,
        **facts,
    }
    row = AuditEntry.objects.create(
        at=at, kind=kind, actor=actor.name, host=host, switch=switch, body=canonical(body)
    )
    # Robust: what was committed is not undone by who hears of it.
    transaction.on_commit(partial(changed.send_robust, sender=kind, host=host))
    return row


def canonical(value: Any) -> str:
    """One text for one value: sorted keys, no spaces; floats and times become strings."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(v) for v in value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return format(value, ".3f")
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def origin_of(actor: Actor) -> Origin | None:
    """The row that says from where, or None where nothing is known of it."""
    if not actor.ip and not actor.agent:
        return None
    return Origin.objects.create(ip=actor.ip, agent=actor.agent[:300])
