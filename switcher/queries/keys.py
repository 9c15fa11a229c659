"""Keys to the gateway: for its table, and for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet, Sum

from switcher.domain.clock import Clock, system
from switcher.models import ApiKey, Usage


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What a key may do. Where it is not for all hosts or profiles, it is for those that are left
    of the ones it was bound to. None: no limit."""

    id: int
    name: str
    prefix: str
    all_hosts: bool
    hosts: tuple[str, ...]
    all_profiles: bool
    profiles: tuple[str, ...]
    manage: bool
    requests_a_minute: int | None
    at_once: int | None
    made_at: datetime
    made_by: str
    expires_at: datetime | None
    off_at: datetime | None
    last_used_at: datetime | None

    def works_at(self, moment: datetime) -> bool:
        """Whether somebody gets in with it then."""
        return self.off_at is None and (self.expires_at is None or moment < self.expires_at)

    @property
    def is_limited(self) -> bool:
        """Whether the gateway counts its requests before it lets them in."""
        return self.requests_a_minute is not None or self.at_once is not None

    def is_for_host(self, name: str) -> bool:
        """Whether it opens the host of this name."""
        return self.all_hosts or name in self.hosts

    def is_for_profile(self, name: str) -> bool:
        """Whether it opens a model that was loaded by this profile; empty: by none."""
        return self.all_profiles or name in self.profiles


COUNTS = Usage.COUNTS
# Processes of the gateway share no counter: see gateway.meter.
LIMIT_WORDS = (
    "Each of N gateway processes allows its N-th part of it, rounded up. A client that keeps one "
    "connection open meets one of them, and gets no more than that part."
)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What a key (None and without a name: nobody's) asked of a model in a span of time."""

    key: int | None
    key_name: str | None
    host: str
    model: str
    requests: int
    errors: int
    waits: int
    wait_ms: int
    tokens_in: int
    tokens_out: int


def by_digest() -> Mapping[str, KeyFacts]:
    """Keys that are not off, by the SHA-256 of the key."""
    rows = _rows().filter(off_at=None)
    return {row.sha256: _facts(row) for row in rows}


def all_keys() -> list[KeyFacts]:
    """Every key that was ever made, newest first."""
    return [_facts(row) for row in _rows()]


def usage(
    days: int = 7, host: str = "", key: int | None = None, clock: Clock = system
) -> list[UsageRow]:
    """By key, host and model over the last days, most requests first; of one host or key alone
    where it is given."""
    found = Usage.objects.filter(hour__gte=clock.now() - timedelta(days=days))
    if host:
        found = found.filter(host=host) if host.isprintable() else found.none()
    if key is not None:
        found = found.filter(key_id=key)
    sums = {name: Sum(name) for name in COUNTS}
    rows = found.values_list("key_id", "key__name", "host", "model").annotate(**sums)
    return [UsageRow(*row) for row in rows.order_by("-requests", "host", "model", "key_id")]


def totals(rows: list[UsageRow]) -> dict[int | None, UsageRow]:
    """The rows of each key added up, over all hosts and models."""
    found: dict[int | None, UsageRow] = {}
    for row in rows:
        one = found.get(row.key)
        sums = [getattr(row, n) + (getattr(one, n) if one else 0) for n in COUNTS]
        found[row.key] = UsageRow(row.key, row.key_name, "", "", *sums)
    return found


def _rows() -> QuerySet[ApiKey]:
    return ApiKey.objects.prefetch_related("hosts", "profiles")


def _facts(row: ApiKey) -> KeyFacts:
    return KeyFacts(
        id=row.pk,
        name=row.name,
        prefix=row.prefix,
        all_hosts=row.all_hosts,
        # Another host may have taken the name of one that was removed.
        hosts=tuple(h.name for h in row.hosts.all() if h.removed_at is None),
        all_profiles=row.all_profiles,
        profiles=tuple(p.name for p in row.profiles.all()),
        manage=row.manage,
        requests_a_minute=row.requests_a_minute,
        at_once=row.at_once,
        made_at=row.made_at,
        made_by=row.made_by,
        expires_at=row.expires_at,
        off_at=row.off_at,
        last_used_at=row.last_used_at,
    )
