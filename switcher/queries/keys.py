"""API keys and their usage, for the gateway and the pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Max, QuerySet, Sum

from switcher.domain.clock import Clock, system
from switcher.models import ApiKey, Usage
from switcher.queries.from_rows import from_row


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """An API key and what it may do. None means no limit.

    `fallback` are the profiles that come next if the key's model is not loaded anywhere.
    `hosts` and `profiles` matter only if the key is not for all of them. Those that are removed
    drop out of these lists; once the last one is gone, the key gives access to nothing.
    """

    id: int
    name: str
    prefix: str
    all_hosts: bool
    hosts: tuple[str, ...]
    all_profiles: bool
    profiles: tuple[str, ...]
    manage: bool
    may_switch: bool
    requests_a_minute: int | None
    at_once: int | None
    made_at: datetime
    made_by: str
    expires_at: datetime | None
    off_at: datetime | None
    last_used_at: datetime | None
    fallback: tuple[str, ...] = ()

    def is_valid_at(self, moment: datetime) -> bool:
        """Return whether the gateway accepts the key at this moment."""
        return self.off_at is None and (self.expires_at is None or moment < self.expires_at)

    @property
    def is_limited(self) -> bool:
        """Return whether the key has a limit of requests."""
        return self.requests_a_minute is not None or self.at_once is not None

    @property
    def only_host(self) -> str:
        """Return the host of a key that is bound to one; empty if it may use several."""
        return self.hosts[0] if not self.all_hosts and len(self.hosts) == 1 else ""

    def is_for_host(self, name: str) -> bool:
        """Return whether the key may use the host of this name."""
        return self.all_hosts or name in self.hosts

    def is_for_profile(self, name: str) -> bool:
        """Return whether the key may use this profile; an empty name is a model without a
        profile."""
        return self.all_profiles or name in self.profiles


COUNTS = Usage.COUNTS


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The usage of one model with one key; `key` is None for requests without a key."""

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
    cut_prompts: int
    fallbacks: int
    last_cut_at: datetime | None = None


def cut_prompts(rows: list[UsageRow]) -> list[UsageRow]:
    """Return the rows of clients whose prompts were cut, most of them first."""
    return sorted((r for r in rows if r.cut_prompts), key=lambda r: -r.cut_prompts)


def by_digest() -> Mapping[str, KeyFacts]:
    """Return the keys that are not turned off, by the SHA-256 of each key."""
    rows = _rows().filter(off_at=None)
    return {row.sha256: _facts(row) for row in rows}


def find_key(digest: str) -> KeyFacts | None:
    """Return the key with this SHA-256; None if there is none or it is off."""
    row = _rows().filter(off_at=None, sha256=digest).first()
    return _facts(row) if row is not None else None


def all_keys() -> list[KeyFacts]:
    """Return all keys, newest first."""
    return [_facts(row) for row in _rows()]


def usage(
    days: int = 7, host: str = "", key: int | None = None, clock: Clock = system
) -> list[UsageRow]:
    """Return the usage of the last days by key, host and model, most requests first.

    `host` and `key` limit the result to one of them.
    """
    found = Usage.objects.filter(hour__gte=clock.now() - timedelta(days=days))
    if host:
        found = found.filter(host=host) if host.isprintable() else found.none()
    if key is not None:
        found = found.filter(key_id=key)
    sums = {name: Sum(name) for name in COUNTS}
    rows = found.values_list("key_id", "key__name", "host", "model").annotate(
        **sums, last_cut=Max("last_cut_at")
    )
    return [UsageRow(*row) for row in rows.order_by("-requests", "host", "model", "key_id")]


def totals(rows: list[UsageRow]) -> dict[int | None, UsageRow]:
    """Return the sum of each key's rows, over all hosts and models."""
    found: dict[int | None, UsageRow] = {}
    for row in rows:
        one = found.get(row.key)
        sums = [getattr(row, n) + (getattr(one, n) if one else 0) for n in COUNTS]
        found[row.key] = UsageRow(row.key, row.key_name, "", "", *sums)
    return found


def _rows() -> QuerySet[ApiKey]:
    return ApiKey.objects.prefetch_related("hosts", "profiles")


def _facts(row: ApiKey) -> KeyFacts:
    return from_row(
        KeyFacts,
        row,
        # Another host may have taken the name of one that was removed.
        hosts=tuple(h.name for h in row.hosts.all() if h.removed_at is None),
        profiles=tuple(p.name for p in row.profiles.all()),
        fallback=tuple(row.fallback),
    )
