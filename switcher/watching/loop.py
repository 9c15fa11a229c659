"""The watcher: reads every host repeatedly, stores the readings, and finds drift.

One loop decides which host is due, several threads read, and one loop stores the readings and
finds drift. Hosts whose last reading failed have their own reader threads, so that a host that
hangs does not delay those that answer.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from weakref import WeakSet

from django.db import DatabaseError, connections

from switcher.concurrency.loop import Loop
from switcher.domain.clock import Clock, system
from switcher.domain.drift import OFFLINE_AFTER
from switcher.domain.observed import Observation
from switcher.domain.servers import Server
from switcher.ollama import awaited
from switcher.ollama.client import Client
from switcher.records import changed, readings
from switcher.records.memory import learn_sizes
from switcher.watching import keepalive, repairs, upkeep
from switcher.watching.actions import ActionQueue
from switcher.watching.detector import DriftDetector
from switcher.watching.readers import Readers

log = logging.getLogger(__name__)

BUSY_INTERVAL_S = 1.0
# Drift is reported within 5 s: a host that stops answering just after a reading is read again
# within 2.75 s (with jitter), and twice more a second apart until it counts as unreachable.
QUIET_INTERVAL_S = 2.5
# Between the beginnings of two readings of a host that does not answer, so that drift is reported
# within 5 s of its first answer. Such a reading is one call, since the first one fails.
OFFLINE_INTERVAL_S = 4.0
OFFLINE_PAUSE_S = 0.5  # after one that hung for longer
LOOK_INTERVAL_S = 2.0
LOOK_SOON_S = 0.1  # after a write; several writes in a row cause one look
# Readings that become due within this time are handed out together.
TICK_S = 0.02
RETRY_INTERVAL_S = 1.0
# Readers mostly wait, so these limits bound threads and memory, not the work. A host that hangs
# occupies a reader until its call times out.
READERS, MAX_READERS = 32, 256
DOUBTFUL, MAX_DOUBTFUL = 8, 128
# A name can point to other content at any time (fact 23): each quiet reading reads the catalog too.
CATALOGUE_INTERVAL_S = 2.0

_watchers: WeakSet[Watcher] = WeakSet()  # that run in this process
_latest: dict[int, Observation] = {}
_failures: dict[int, int] = {}


def latest() -> Mapping[int, Observation]:
    """Return this process's newest reading of each host, by host id. It is newer than the row."""
    return MappingProxyType(_latest)


def failures(host_id: int) -> int:
    """Return how many readings of a host have failed in a row, as far as this process knows."""
    return _failures.get(host_id, 0)


def forget() -> None:
    """Drop all readings, for a new start in the same process."""
    _latest.clear()
    _failures.clear()


@dataclass(slots=True)
class _Watched:
    host: readings.WatchedHost
    client: Client
    due: float
    was_due: float = 0.0  # when the reading under way was to begin
    began: float = -math.inf  # when it did
    reading: bool = False
    catalogue_at: float = -math.inf
    stored: Observation | None = None


class Watcher:
    """Polls hosts every second during a switch, otherwise every QUIET_INTERVAL_S, and every
    OFFLINE_INTERVAL_S while a host does not answer. Jitter keeps hosts from being read in
    lockstep."""

    def __init__(
        self,
        clock: Clock = system,
        readers: int = READERS,
        seed: int | None = None,
        quiet_s: float | None = None,
    ) -> None:
        """`readers`: how many threads read hosts that answer. `quiet_s`: the interval between two
        readings of a host on which nothing happens."""
        self._clock = clock
        self._quiet_s = QUIET_INTERVAL_S if quiet_s is None else quiet_s
        self._random = random.Random(seed)
        self._look_soon = threading.Event()
        self._looked_at = -math.inf
        self._wakes_at = math.inf
        self._hosts: dict[int, _Watched] = {}
        self._detector = DriftDetector(clock)
        self._actions = ActionQueue(clock)
        self._readers = Readers("watch-reader", self._read, readers, MAX_READERS, clock)
        self._doubtful = Readers("watch-doubtful", self._read, DOUBTFUL, MAX_DOUBTFUL, clock)
        self._readings: deque[tuple[_Watched, Observation]] = deque()
        self._scheduling = Loop(
            "watcher", self._schedule, RETRY_INTERVAL_S, at_end=self._close_clients
        )
        self._storing = Loop("watch-keeper", self._store_readings, RETRY_INTERVAL_S)

    def start(self) -> None:
        changed.connect(self._on_change)
        _watchers.add(self)
        self._actions.start()
        self._storing.start(after_s=math.inf)
        self._scheduling.start()

    def stop(self, patience_s: float = 0.0) -> bool:
        """Start no more readings or actions, and return whether all threads have ended."""
        changed.disconnect(self._on_change)
        _watchers.discard(self)
        parts = (self._actions, self._readers, self._doubtful, self._storing, self._scheduling)
        for part in parts:
            part.stop()
        ended = [part.stop(patience_s) for part in parts]
        return all(ended)

    def _on_change(self, sender: object, host: str = "", **_: object) -> None:
        """Read a host soon after something was written about it."""
        if sender in {"reading", "host.version"} or str(sender).startswith("drift."):
            return  # comes from readings itself
        for watched in list(self._hosts.values()):
            if watched.host.name == host:
                watched.due = min(watched.due, self._clock.monotonic())
        self._look_soon.set()
        self._scheduling.wake()

    def read_soon(self, host_id: int) -> bool:
        """Read a host at once, or once more. Return False if it is not watched."""
        watched = self._hosts.get(host_id)
        if watched is None:
            return False
        # Somebody may call this again and again.
        earliest = max(self._clock.monotonic(), watched.began + BUSY_INTERVAL_S)
        watched.due = min(watched.due, earliest)
        self._scheduling.wake()
        return True

    # --- which host is due ---------------------------------------------------------------------

    def _schedule(self) -> float:
        """Hand out the readings that are due; return the seconds until the next ones are."""
        now = self._clock.monotonic()
        if now >= self._next_look():
            self._look_soon.clear()
            self._looked_at = now
            self._refresh_hosts()
        self._wakes_at = math.inf  # from here on, setting an earlier time wakes the loop
        self._hand_out(now)
        self._wakes_at = self._next_wake(now)
        return max(0.0, self._wakes_at - self._clock.monotonic())

    def _close_clients(self) -> None:
        for watched in self._hosts.values():
            watched.client.close()

    def _next_look(self) -> float:
        return self._looked_at + (LOOK_SOON_S if self._look_soon.is_set() else LOOK_INTERVAL_S)

    def _refresh_hosts(self) -> None:
        try:
            rows = {h.id: h for h in readings.watched_hosts()}
            self._detector.refresh()
        except DatabaseError:
            log.exception("the watcher could not read the hosts; it tries again")
            connections.close_all()  # a broken connection does not recover
            return
        for gone in self._hosts.keys() - rows.keys():
            self._drop(gone)
        for host in rows.values():
            self._take_up(host)

    def _drop(self, host_id: int) -> None:
        """Forget a host: what was seen there says nothing about another address."""
        self._hosts.pop(host_id).client.close()
        _latest.pop(host_id, None)
        _failures.pop(host_id, None)
        self._detector.forget(host_id)

    def _take_up(self, host: readings.WatchedHost) -> None:
        known = self._hosts.get(host.id)
        if known is not None and known.host.server != host.server:
            self._drop(host.id)
            known = None
        if known is None:
            self._hosts[host.id] = _Watched(host, Client(host.server), self._clock.monotonic())
        else:
            if host.busy and not known.host.busy:
                known.due = min(known.due, self._clock.monotonic())
            known.host = host

    def _hand_out(self, now: float) -> None:
        for host_id, watched in self._hosts.items():
            if watched.due <= now and not watched.reading:
                watched.reading = True
                watched.was_due, watched.due = watched.due, math.inf
                (self._doubtful if _failures.get(host_id) else self._readers).put(watched)
        self._readers.tend()
        self._doubtful.tend()

    def _next_wake(self, now: float) -> float:
        at = min([self._next_look(), *(w.due for w in self._hosts.values() if not w.reading)])
        if self._readers.waiting or self._doubtful.waiting:
            at = now  # check again in the next tick
        return max(now + TICK_S, at)

    def _set_due(self, watched: _Watched) -> None:
        """Set when a host is read next, after a reading that succeeded or failed. An earlier time
        that was requested meanwhile is kept."""
        failures = _failures.get(watched.host.id, 0)
        now = self._clock.monotonic()
        next_at = now + self._interval(watched, failures)
        if failures >= OFFLINE_AFTER:
            next_at = max(now + OFFLINE_PAUSE_S, next_at - (now - watched.began))
        watched.due = min(watched.due, next_at)
        watched.reading = False
        if failures:
            awaited.wait_for(watched.host.server.base_url, partial(self.read_soon, watched.host.id))
        if watched.due < self._wakes_at:
            self._scheduling.wake()

    # --- reading and storing -------------------------------------------------------------------

    def _read(self, watched: _Watched) -> None:
        watched.began = self._clock.monotonic()
        try:
            self._readings.append((watched, self._observe(watched)))
        except Exception:
            log.exception("%s could not be read", watched.host.name)
            self._set_due(watched)
        else:
            self._storing.wake()

    def _store_readings(self) -> float:
        """Store the readings, then wait for more. One thread does this for all hosts: one database
        connection, one writer."""
        while self._readings and not self._storing.stopping:
            watched, seen = self._readings.popleft()
            try:
                self._keep(watched, seen)
            except Exception:
                # A failure must not delay the other hosts; the Loop would back off.
                log.exception("the reading of %s could not be stored", watched.host.name)
                connections.close_all()  # a broken connection does not recover
            finally:
                self._set_due(watched)
        return math.inf

    def _keep(self, watched: _Watched, seen: Observation) -> None:
        host_id = watched.host.id
        if self._hosts.get(host_id) is not watched:
            return  # removed or moved meanwhile
        failures = 0 if seen.answered else _failures.get(host_id, 0) + 1
        _failures[host_id] = failures
        previous = _latest.get(host_id)
        if not seen.answered and previous is not None:
            # Keep what it held when it last answered; the error shows that this is old.
            seen = replace(
                seen,
                resident=previous.resident,
                installed=previous.installed,
                version=previous.version,
            )
        _latest[host_id] = seen
        self._detect_drift(watched, seen)
        if self._worth_storing(watched.stored, seen, failures):
            readings.store(host_id, seen, failures)
            if seen.answered:
                learn_sizes(host_id, seen.resident, seen.at)
            watched.stored = seen
        changed.send_robust(sender="reading", host=watched.host.name)

    def _detect_drift(self, watched: _Watched, seen: Observation) -> None:
        """Record drift, and act on it if the host's policy says so. If this fails, such as while
        the database is locked, the reading is stored nevertheless."""
        try:
            self._detector.recall(watched.host.id)
            report = self._detector.detect(watched.host.id, seen, watched.host.busy)
        except DatabaseError:
            log.exception("drift of %s could not be recorded", watched.host.name)
            connections.close_all()
            return
        if report is not None and seen.answered and not report.shares_its_server:
            for module in (repairs, upkeep, keepalive):
                self._actions.submit(module.actions(report, self._clock))

    def _observe(self, watched: _Watched) -> Observation:
        """Read everything, or only the resident models: the catalog rarely changes."""
        now = self._clock.monotonic()
        known = _latest.get(watched.host.id)
        # After a switch a name may point to other content.
        anew = self._detector.is_undecided(watched.host.id) and not watched.host.busy
        stale = now - watched.catalogue_at > CATALOGUE_INTERVAL_S
        if known is None or not known.answered or stale or anew:
            watched.catalogue_at = now
            return watched.client.observe(self._clock.now())
        seen = watched.client.observe_resident(self._clock.now(), known)
        if seen.resident == known.resident:
            return seen
        on_disk = {(i.name, i.digest) for i in known.installed}
        if any((r.name, r.digest) not in on_disk for r in seen.resident):
            # Newer than the catalog, or a ghost: only a full reading can tell.
            watched.catalogue_at = now
            return watched.client.observe(self._clock.now())
        return seen

    def _interval(self, watched: _Watched, failures: int) -> float:
        if failures >= OFFLINE_AFTER:
            seconds = OFFLINE_INTERVAL_S
        else:
            soon = watched.host.busy or failures or self._detector.is_undecided(watched.host.id)
            seconds = BUSY_INTERVAL_S if soon else self._quiet_s
        return seconds * self._random.uniform(0.9, 1.1)

    def _worth_storing(self, stored: Observation | None, seen: Observation, failures: int) -> bool:
        if stored is None or not stored.same_facts(seen) or 0 < failures <= OFFLINE_AFTER:
            return True
        return (seen.at - stored.at).total_seconds() >= readings.STORE_INTERVAL_S


def check_now(host_id: int, server: Server | str, clock: Clock = system) -> Observation:
    """Read one host now, and store the result like any other reading.

    A failure is not counted: the watcher reads the host too, at once, and stores what it finds.
    """
    client = Client(server)
    try:
        seen = client.observe(clock.now())
    finally:
        client.close()
    if seen.answered:
        _latest[host_id] = seen
        readings.store(host_id, seen, 0)
    elif not any(watcher.read_soon(host_id) for watcher in list(_watchers)):
        readings.store(host_id, seen, 1)
    return seen
