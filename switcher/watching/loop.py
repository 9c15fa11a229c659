"""The watcher: reads every host again and again, keeps what it saw, tells who shows it.

One thread decides who is due, several read, one keeps what was read: it judges, stores and tells.
Hosts whose last reading failed have readers of their own, so that those that hang delay none that
answer. All are daemons.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from django.db import DatabaseError, connections

from switcher.domain.clock import Clock, system
from switcher.domain.drift import OFFLINE_AFTER
from switcher.domain.observed import Observation
from switcher.ollama.client import Client
from switcher.records import changed, readings
from switcher.watching import ghosts, keepalive, repairs
from switcher.watching.acts import Acts
from switcher.watching.judge import Judge
from switcher.watching.readers import Readers

log = logging.getLogger(__name__)

BUSY_S = 1.0
# Drift is to be named within 5 s: so a host that fell silent just after a reading is read again,
# jittered, within 2.75 s, and twice more a second apart until that counts.
QUIET_S = 2.5
LONGEST_S = 30.0
LOOK_EVERY_S = 2.0
LOOK_SOON_S = 0.1  # after something was written; of many writes at once not each is looked at
# What becomes due within it is handed out together.
TICK_S = 0.02
# Readers wait most of their time: these bound threads and memory, not the work. Of those that
# hang, each holds one for the deadline of its call.
READERS, MAX_READERS = 32, 256
DOUBTFUL, MAX_DOUBTFUL = 8, 32
# A name may be pointed at other content at any time (fact 23): with each quiet reading.
CATALOGUE_EVERY_S = 2.0

_latest: dict[int, Observation] = {}
_failures: dict[int, int] = {}


def latest() -> Mapping[int, Observation]:
    """This process's newest reading of each host, by host id: newer than what is stored."""
    return MappingProxyType(_latest)


def forget() -> None:
    """Drop what was read: for a new start in the same process."""
    _latest.clear()
    _failures.clear()


@dataclass(slots=True)
class _Watched:
    host: readings.WatchedHost
    client: Client
    due: float
    was_due: float = 0.0  # when the reading under way was to begin
    reading: bool = False
    catalogue_at: float = float("-inf")
    stored: Observation | None = None


class Watcher:
    """Polls until stopped: each second while a switch runs, each QUIET_S else, backing off while a
    host does not answer; jittered, so that hosts do not march in step."""

    def __init__(
        self,
        clock: Clock = system,
        readers: int = READERS,
        seed: int | None = None,
        quiet_s: float | None = None,
    ) -> None:
        """`readers`: how many may wait for hosts that answer. `quiet_s`: between two readings of a
        host where nothing happens."""
        self._clock = clock
        self._quiet_s = QUIET_S if quiet_s is None else quiet_s
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._bell = threading.Event()
        self._look = threading.Event()
        self._wakes_at = float("inf")
        self._hosts: dict[int, _Watched] = {}
        self._judge = Judge(clock)
        self._acts = Acts(clock)
        self._readers = Readers("watch-reader", self._read, readers, MAX_READERS, clock)
        self._doubtful = Readers("watch-doubtful", self._read, DOUBTFUL, MAX_DOUBTFUL, clock)
        self._readings: queue.SimpleQueue[tuple[_Watched, Observation] | None] = queue.SimpleQueue()
        self._own_threads = [
            threading.Thread(target=self._loop, name="watcher", daemon=True),
            threading.Thread(target=self._keep_on, name="watch-keeper", daemon=True),
        ]

    @property
    def _threads(self) -> list[threading.Thread]:
        """For who waits for their end."""
        return [*self._own_threads, *self._readers.threads, *self._doubtful.threads]

    def start(self) -> None:
        changed.connect(self._on_change)
        self._acts.start()
        for thread in self._own_threads:
            thread.start()

    def stop(self) -> None:
        changed.disconnect(self._on_change)
        self._stop.set()
        self._acts.stop()
        self._readers.stop()
        self._doubtful.stop()
        self._readings.put(None)
        self._bell.set()

    def _on_change(self, sender: object, host: str = "", **_: object) -> None:
        """Something was written about a host: read it soon, do not wait for its turn."""
        if sender in {"reading", "host.version"} or str(sender).startswith("drift."):
            return  # comes from readings itself
        for watched in list(self._hosts.values()):
            if watched.host.name == host:
                watched.due = min(watched.due, self._clock.monotonic())
        self._look.set()
        self._bell.set()

    # --- who is due ----------------------------------------------------------------------------

    def _loop(self) -> None:
        looked = float("-inf")
        while True:
            self._bell.clear()
            if self._stop.is_set():
                break
            now = self._clock.monotonic()
            if now >= self._next_look(looked):
                self._look.clear()
                looked = now
                self._refresh_hosts()
            self._wakes_at = float("inf")  # from here on whoever sets a time rings
            self._hand_out(now)
            self._wakes_at = wakes_at = self._next_wake(now, self._next_look(looked))
            self._bell.wait(wakes_at - now)
        for watched in self._hosts.values():
            watched.client.close()
        connections.close_all()

    def _next_look(self, looked: float) -> float:
        return looked + (LOOK_SOON_S if self._look.is_set() else LOOK_EVERY_S)

    def _refresh_hosts(self) -> None:
        try:
            rows = {h.id: h for h in readings.watched_hosts()}
            self._judge.refresh()
        except DatabaseError:
            log.exception("the watcher could not read the hosts; it tries again")
            connections.close_all()  # one that broke works never again
            return
        for gone in self._hosts.keys() - rows.keys():
            self._drop(gone)
        for host in rows.values():
            self._take_up(host)

    def _drop(self, host_id: int) -> None:
        """What it was seen to hold says nothing of another address."""
        self._hosts.pop(host_id).client.close()
        _latest.pop(host_id, None)
        _failures.pop(host_id, None)
        self._judge.forget(host_id)

    def _take_up(self, host: readings.WatchedHost) -> None:
        known = self._hosts.get(host.id)
        if known is not None and known.host.base_url != host.base_url:
            self._drop(host.id)
            known = None
        if known is None:
            self._hosts[host.id] = _Watched(host, Client(host.base_url), self._clock.monotonic())
        else:
            if host.busy and not known.host.busy:
                known.due = min(known.due, self._clock.monotonic())
            known.host = host

    def _hand_out(self, now: float) -> None:
        for host_id, watched in self._hosts.items():
            if watched.due <= now and not watched.reading:
                watched.reading = True
                watched.was_due, watched.due = watched.due, float("inf")
                (self._doubtful if _failures.get(host_id) else self._readers).put(watched)
        self._readers.tend()
        self._doubtful.tend()

    def _next_wake(self, now: float, looks_at: float) -> float:
        at = min([looks_at, *(w.due for w in self._hosts.values() if not w.reading)])
        if self._readers.waiting or self._doubtful.waiting:
            at = now  # they are tended again with the next tick
        return max(now + TICK_S, at)

    def _set_due(self, watched: _Watched) -> None:
        """Its reading is over, well or not: when the next one is. Not later than somebody asked for
        meanwhile."""
        failures = _failures.get(watched.host.id, 0)
        next_s = self._clock.monotonic() + self._interval(watched, failures)
        watched.due = min(watched.due, next_s)
        watched.reading = False
        if watched.due < self._wakes_at:
            self._bell.set()

    # --- reading and keeping -------------------------------------------------------------------

    def _read(self, watched: _Watched) -> None:
        try:
            self._readings.put((watched, self._observe(watched)))
        except Exception:
            log.exception("what %s holds could not be read", watched.host.name)
            self._set_due(watched)

    def _keep_on(self) -> None:
        """One thread for all, as databases have it: one connection, one writer."""
        while (reading := self._readings.get()) is not None:
            watched, seen = reading
            try:
                self._keep(watched, seen)
            except Exception:
                log.exception("what %s holds could not be kept", watched.host.name)
                connections.close_all()  # one that broke works never again
            finally:
                self._set_due(watched)
        connections.close_all()

    def _keep(self, watched: _Watched, seen: Observation) -> None:
        host_id = watched.host.id
        if self._hosts.get(host_id) is not watched:
            return  # removed or moved meanwhile
        failures = 0 if seen.answered else _failures.get(host_id, 0) + 1
        _failures[host_id] = failures
        previous = _latest.get(host_id)
        if not seen.answered and previous is not None:
            # What it held when it last answered stays known; the error says it is not now.
            seen = replace(
                seen,
                resident=previous.resident,
                installed=previous.installed,
                version=previous.version,
            )
        _latest[host_id] = seen
        self._judge_reading(watched, seen)
        if self._worth_storing(watched.stored, seen, failures):
            readings.store(host_id, seen, failures)
            watched.stored = seen
        changed.send_robust(sender="reading", host=watched.host.name)

    def _judge_reading(self, watched: _Watched, seen: Observation) -> None:
        """Name what drifted, and see to it where the host's policy says so. That this fails, as
        while the database is locked, keeps no reading from being stored."""
        try:
            self._judge.recall(watched.host.id)
            verdict = self._judge.judge(watched.host.id, seen, watched.host.busy)
        except DatabaseError:
            log.exception("drift of %s could not be recorded", watched.host.name)
            connections.close_all()
            return
        if verdict is not None and seen.answered:
            for duty in (repairs, ghosts, keepalive):
                self._acts.hand_out(duty.wanted(verdict, self._clock))

    def _observe(self, watched: _Watched) -> Observation:
        """Everything, or what is resident alone: the catalogue changes seldom."""
        now = self._clock.monotonic()
        known = _latest.get(watched.host.id)
        # After a switch a name may mean something else.
        anew = self._judge.unsettled(watched.host.id) and not watched.host.busy
        stale = now - watched.catalogue_at > CATALOGUE_EVERY_S
        if known is None or not known.answered or stale or anew:
            watched.catalogue_at = now
            return watched.client.observe(self._clock.now())
        seen = watched.client.observe_resident(self._clock.now(), known)
        if seen.resident == known.resident:
            return seen
        on_disk = {(i.name, i.digest) for i in known.installed}
        if any((r.name, r.digest) not in on_disk for r in seen.resident):
            # Newer than the catalogue, or a ghost: only the two together tell.
            watched.catalogue_at = now
            return watched.client.observe(self._clock.now())
        return seen

    def _interval(self, watched: _Watched, failures: int) -> float:
        if failures >= OFFLINE_AFTER:
            seconds = min(LONGEST_S, self._quiet_s * 2.0 ** min(failures - OFFLINE_AFTER, 10))
        else:
            soon = watched.host.busy or failures or self._judge.unsettled(watched.host.id)
            seconds = BUSY_S if soon else self._quiet_s
        return seconds * self._random.uniform(0.9, 1.1)

    def _worth_storing(self, stored: Observation | None, seen: Observation, failures: int) -> bool:
        if stored is None or not stored.same_facts(seen) or 0 < failures <= OFFLINE_AFTER:
            return True
        return (seen.at - stored.at).total_seconds() >= readings.TIME_EVERY_S


def check_now(host_id: int, base_url: str, clock: Clock = system) -> Observation:
    """Read one host at once, for who asks; kept and stored like any other reading."""
    client = Client(base_url)
    try:
        seen = client.observe(clock.now())
    finally:
        client.close()
    _failures[host_id] = 0 if seen.answered else _failures.get(host_id, 0) + 1
    if seen.answered:
        _latest[host_id] = seen
    readings.store(host_id, seen, _failures[host_id])
    return seen
