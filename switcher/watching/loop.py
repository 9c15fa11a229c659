"""The watcher: reads every host again and again, keeps what it saw, tells who shows it.

One thread decides who is due, a few daemon threads read. A host that hangs costs one of them for
5 s at most and delays no other as long as others are free.
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

from switcher.clock import Clock, system
from switcher.observed import Observation
from switcher.ollama.client import Client
from switcher.records import changed, readings

log = logging.getLogger(__name__)

BUSY_S = 1.0
QUIET_S = 5.0
OFFLINE_AFTER = 3
LONGEST_S = 30.0
LOOK_EVERY_S = 2.0
CATALOGUE_EVERY_S = 30.0

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
    reading: bool = False
    catalogue_at: float = float("-inf")
    stored: Observation | None = None


class Watcher:
    """Polls until stopped: each second while a switch runs, each 5 s else, backing off while a
    host does not answer; jittered, so that hosts do not march in step."""

    def __init__(self, clock: Clock = system, readers: int = 4, seed: int | None = None) -> None:
        self._clock = clock
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._bell = threading.Event()
        self._hosts: dict[int, _Watched] = {}
        self._jobs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._read_on, name=f"watch-reader-{n}", daemon=True)
            for n in range(readers)
        ]
        self._threads.append(threading.Thread(target=self._loop, name="watcher", daemon=True))

    def start(self) -> None:
        changed.connect(self._on_change)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        changed.disconnect(self._on_change)
        self._stop.set()
        self._bell.set()
        for _ in self._threads:
            self._jobs.put(None)

    def _on_change(self, sender: object, host: str = "", **_: object) -> None:
        """Something was written about a host: read it soon, do not wait for its turn."""
        if sender == "reading":
            return
        for watched in list(self._hosts.values()):
            if watched.host.name == host:
                watched.due = 0.0
        self._bell.set()

    def _loop(self) -> None:
        looked = float("-inf")
        while not self._stop.is_set():
            now = self._clock.monotonic()
            if now - looked >= LOOK_EVERY_S or self._bell.is_set():
                self._bell.clear()
                looked = now
                self._refresh_hosts()
            self._hand_out(now)
            self._bell.wait(self._until_next(now, looked))
        for watched in self._hosts.values():
            watched.client.close()
        connections.close_all()

    def _refresh_hosts(self) -> None:
        try:
            rows = {h.id: h for h in readings.watched_hosts()}
        except DatabaseError:
            log.exception("the watcher could not read the hosts; it tries again")
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

    def _take_up(self, host: readings.WatchedHost) -> None:
        known = self._hosts.get(host.id)
        if known is not None and known.host.base_url != host.base_url:
            self._drop(host.id)
            known = None
        if known is None:
            self._hosts[host.id] = _Watched(host, Client(host.base_url), due=0.0)
        else:
            if host.busy and not known.host.busy:
                known.due = 0.0
            known.host = host

    def _hand_out(self, now: float) -> None:
        for host_id, watched in self._hosts.items():
            if watched.due <= now and not watched.reading:
                watched.reading = True
                watched.due = float("inf")  # unless somebody asks for it meanwhile
                self._jobs.put(host_id)

    def _until_next(self, now: float, looked: float) -> float:
        due = [w.due for w in self._hosts.values() if not w.reading]
        return max(0.02, min([looked + LOOK_EVERY_S, *due]) - now)

    def _read_on(self) -> None:
        while (host_id := self._jobs.get()) is not None:
            watched = self._hosts.get(host_id)
            if watched is None:
                continue
            try:
                self._read(watched)
            except Exception:
                log.exception("what %s holds could not be read or kept", watched.host.name)
            finally:
                # Also after a fault, and not later than somebody asked for meanwhile.
                failures = _failures.get(host_id, 0)
                next_s = self._clock.monotonic() + self._interval(watched, failures)
                watched.due = min(watched.due, next_s)
                watched.reading = False
                self._bell.set()
        connections.close_all()

    def _read(self, watched: _Watched) -> None:
        host_id = watched.host.id
        seen = self._observe(watched)
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
        if self._worth_storing(watched.stored, seen, failures):
            readings.store(host_id, seen, failures)
            watched.stored = seen
        changed.send_robust(sender="reading", host=watched.host.name)

    def _observe(self, watched: _Watched) -> Observation:
        """Everything, or what is resident alone: the catalogue changes seldom."""
        now = self._clock.monotonic()
        known = _latest.get(watched.host.id)
        if known is None or not known.answered or now - watched.catalogue_at > CATALOGUE_EVERY_S:
            watched.catalogue_at = now
            return watched.client.observe(self._clock.now())
        return watched.client.observe_resident(self._clock.now(), known)

    def _interval(self, watched: _Watched, failures: int) -> float:
        if failures >= OFFLINE_AFTER:
            seconds = min(LONGEST_S, QUIET_S * 2.0 ** min(failures - OFFLINE_AFTER, 10))
        else:
            seconds = BUSY_S if watched.host.busy or failures else QUIET_S
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
