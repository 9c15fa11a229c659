"""Recognises two addresses of one Ollama server from what it lists. Pure: no I/O, no Django.

A loaded model's expiry has nanoseconds, which two servers never have in common. The times of change
of installed models are common to servers that share a directory, so they alone prove nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from switcher.domain.drift import DriftFinding, Kind
from switcher.domain.observed import Mark, Observation

# How long two sightings of one expiry may lie apart, and how long they count.
MATCH_VALID_S = 40.0
MATCHES = 2
MAX_NAMED = 3
# Readings of a host until it can be said that it is no other host's server.
READINGS_TO_DECIDE = 3


def is_same_catalog(one: Observation, other: Observation) -> bool:
    """Return whether both list the same installed models, changed at the same times."""
    return bool(one.catalog) and one.catalog == other.catalog


def is_same_load(one: Observation, other: Observation) -> bool:
    """Return whether both list a model that is loaded until the same nanosecond."""
    return not one.loads.isdisjoint(other.loads)


class SameServers:
    """Which of the watched hosts are one server, from their readings. Not thread-safe."""

    def __init__(self) -> None:
        self._readings: Counter[int] = Counter()
        self._newest: dict[int, Observation] = {}
        self._seen: dict[Mark, dict[int, float]] = {}  # when each host last listed a load
        self._matches: dict[frozenset[int], deque[float]] = {}
        self._pruned_at = 0.0

    def add(self, host_id: int, seen: Observation, now_s: float) -> None:
        """Take a reading into account. `now_s` is a monotonic time."""
        if not seen.answered:
            return
        self._readings[host_id] += 1
        self._newest[host_id] = seen
        self._prune(now_s)
        others = set()
        for mark in seen.loads:
            at = self._seen.setdefault(mark, {})
            others |= {other for other in at if other != host_id}
            at[host_id] = now_s
        for other in others:
            pair = frozenset((host_id, other))
            self._matches.setdefault(pair, deque(maxlen=MATCHES)).append(now_s)

    def forget(self, host_id: int) -> None:
        """Forget a host that was removed or has another address."""
        self._newest.pop(host_id, None)
        self._readings.pop(host_id, None)
        for at in self._seen.values():
            at.pop(host_id, None)
        self._matches = {p: times for p, times in self._matches.items() if host_id not in p}

    def same_as(self, host_id: int, now_s: float) -> frozenset[int] | None:
        """Return the hosts that are this one's server; None if it is too early to say."""
        if self._readings[host_id] < READINGS_TO_DECIDE:
            return None
        pairs = [pair for pair in self._matches if host_id in pair and self._holds(pair, now_s)]
        return frozenset(other for pair in pairs for other in pair if other != host_id)

    def _holds(self, pair: frozenset[int], now_s: float) -> bool:
        times = self._matches[pair]
        if len(times) < MATCHES:
            return False
        one, other = (self._newest[host_id] for host_id in pair)
        is_idle = not (one.resident or other.resident)
        # Nothing that is loaded can contradict it.
        return now_s - times[-1] < MATCH_VALID_S or (is_idle and is_same_catalog(one, other))

    def _prune(self, now_s: float) -> None:
        if now_s - self._pruned_at < MATCH_VALID_S:
            return
        self._pruned_at = now_s
        recent: dict[Mark, dict[int, float]] = {}
        for mark, at in self._seen.items():
            kept = {host: since for host, since in at.items() if now_s - since < MATCH_VALID_S}
            if kept:
                recent[mark] = kept
        self._seen = recent
        self._matches = {p: times for p, times in self._matches.items() if self._may_hold(p, now_s)}

    def _may_hold(self, pair: frozenset[int], now_s: float) -> bool:
        return now_s - self._matches[pair][-1] < MATCH_VALID_S or self._holds(pair, now_s)


def same_server_finding(host: str, others: Mapping[str, str], now: Observation) -> DriftFinding:
    """Return the drift of a host that is also others, given as addresses by name."""
    shown = [f"{name} ({address})" for name, address in sorted(others.items())]
    more = [f"{len(shown) - MAX_NAMED} more"] if len(shown) > MAX_NAMED else []
    named = " and ".join([*shown[:MAX_NAMED], *more])
    text = (
        f"{host} is the same server as {named}: both list a model that is loaded until the same "
        "nanosecond. Remove one of them; until then nothing is switched on either."
    )
    evidence = {
        "wanted": {"host": host, "other_hosts": dict(others)},
        "now": {
            "at": now.at.isoformat(),
            "resident": [r.name.short for r in now.resident],
            "expires": sorted(at for _, at in now.loads),
        },
    }
    return DriftFinding(Kind.SAME_SERVER, "", "", text, evidence)
