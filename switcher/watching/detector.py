"""Compares each reading with the desired state, and records drift.

This is cheap while nothing happens: the desired state is read again only after an audit entry was
appended, and drift is written only when it begins or ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from switcher.domain.clock import Clock, system
from switcher.domain.drift import DriftFinding, Kind, OpenDrift, ReadingHistory
from switcher.domain.drift_rules import ending_text, find_drift, kinds_shown
from switcher.domain.observed import Observation
from switcher.domain.same_server import SameServers
from switcher.queries.change_marker import newest_entry
from switcher.queries.desired import WatchedHost, watched_hosts
from switcher.queries.readings import last_reading
from switcher.records import drifts
from switcher.records.drifts import Detection


@dataclass(frozen=True, slots=True)
class DriftReport:
    """A reading of a host, the host's desired state, and the drift that is open now."""

    host: WatchedHost
    seen: Observation
    open: tuple[OpenDrift, ...]

    @property
    def shares_its_server(self) -> bool:
        """Return whether another host is the same server: what one desires would undo the other."""
        return any(d.kind is Kind.SAME_SERVER for d in self.open)


class DriftDetector:
    """Knows the desired state and the recent readings of every host. Call `refresh` from one
    thread, and `detect` from one thread at a time for each host."""

    def __init__(self, clock: Clock = system) -> None:
        self._clock = clock
        self._hosts: dict[int, WatchedHost] = {}
        self._newest: int | None = None
        self._histories: dict[int, ReadingHistory] = {}
        self._open: dict[int, tuple[OpenDrift, ...]] = {}
        self._undecided: set[int] = set()
        self._servers = SameServers()

    def refresh(self) -> None:
        """Read the desired state again if an entry was appended since; makes one query if none
        was."""
        newest = newest_entry()
        if newest == self._newest:
            return
        self._hosts = watched_hosts()
        self._open = {host_id: host.drifts for host_id, host in self._hosts.items()}
        self._newest = newest

    def forget(self, host_id: int) -> None:
        """Drop the readings of a host that was removed or has a new address."""
        self._histories.pop(host_id, None)
        self._undecided.discard(host_id)
        self._servers.forget(host_id)

    def recall(self, host_id: int) -> None:
        """Start from the last reading of an earlier process. Call it before the first is stored."""
        if host_id not in self._histories:
            before, history = last_reading(host_id), ReadingHistory()
            if before is not None:
                # Drop the error of later readings that failed.
                history = history.after(replace(before, error=""))
            self._histories[host_id] = history

    def detect(self, host_id: int, seen: Observation, busy: bool) -> DriftReport | None:
        """Compare a reading with the desired state, and record its drift.

        Return None if it cannot be compared: while a switch is open, and at the first reading
        after it, which may have begun before the switch ended.
        """
        self._servers.add(host_id, seen, self._clock.monotonic())
        host = self._hosts.get(host_id)
        history = self._histories.get(host_id, ReadingHistory())
        if busy:
            self._histories[host_id] = history.after(seen, compared=False)
            self._undecided.add(host_id)
            return None
        if host is None or host_id in self._undecided:
            self._histories[host_id] = history.after_uncompared(seen)
            self._undecided.discard(host_id)
            return None
        open_drift = self._record(host, history, seen)
        # The history is written only now: if recording failed, the next reading is compared with
        # what was seen before this one.
        if open_drift is None:
            self._histories[host_id] = history.after_uncompared(seen)
            self._undecided.add(host_id)
            return None
        self._histories[host_id] = history.after(seen)
        self._open[host_id] = open_drift
        return DriftReport(host, seen, open_drift)

    def is_undecided(self, host_id: int) -> bool:
        """Return whether the next reading should come soon, because this one was not compared."""
        return host_id in self._undecided

    def _same_as(self, host_id: int) -> dict[str, str] | None:
        """Return the names and addresses of the hosts that are the same server; None if it is too
        early to say."""
        same_as = self._servers.same_as(host_id, self._clock.monotonic())
        if same_as is None:
            return None
        others = [self._hosts[other] for other in same_as if other in self._hosts]
        return {other.host: other.base_url for other in others}

    def _record(
        self, host: WatchedHost, history: ReadingHistory, seen: Observation
    ) -> tuple[OpenDrift, ...] | None:
        before = self._open.get(host.host_id, ())
        texts = {d.key: d.text for d in before}
        history = replace(history, open=frozenset(texts), open_texts=texts)
        same_as = self._same_as(host.host_id)
        found = find_drift(host.desired, history, seen, same_as)
        kinds = kinds_shown(seen, same_as)
        if _shown(found) == _shown(d for d in before if d.kind in kinds):
            return before
        detection = Detection(
            host_id=host.host_id,
            active_digest=host.active_digest,
            active_since=host.active_since,
            read_at=seen.at,
            kinds=kinds,
            found=found,
            ending=partial(ending_text, host.desired, seen),
        )
        return drifts.record(detection, self._clock)


def _shown(drifts: Iterable[DriftFinding | OpenDrift]) -> dict[tuple[str, str], str]:
    """Return the text of each drift. (Those of flapping are written where repairs are counted.)"""
    return {d.key: "" if d.kind is Kind.FLAPPING else d.text for d in drifts}
