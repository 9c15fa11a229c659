"""Compares each reading with what is desired, and has what differs written down.

Cheap while nothing happens: what is desired is read again only when an audit entry was appended
anywhere, and the database is asked about a host only when its drift begins or ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from switcher.domain.clock import Clock, system
from switcher.domain.drift import Memory, Recorded, ending, find, judged
from switcher.domain.observed import Observation
from switcher.queries.change_marker import newest_entry
from switcher.queries.desired import WatchedHost, watched_hosts
from switcher.queries.readings import last_reading
from switcher.records import drifts
from switcher.records.drifts import Judgement


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reading of a host, judged: what it is compared with, and which drift is open now."""

    case: WatchedHost
    seen: Observation
    open: tuple[Recorded, ...]


class Judge:
    """Knows what is desired, and remembers what each host held. `refresh` is called by one thread,
    `judge` by one at a time for each host."""

    def __init__(self, clock: Clock = system) -> None:
        self._clock = clock
        self._cases: dict[int, WatchedHost] = {}
        self._newest: int | None = None
        self._memories: dict[int, Memory] = {}
        self._open: dict[int, tuple[Recorded, ...]] = {}
        self._unsettled: set[int] = set()

    def refresh(self) -> None:
        """Read what is desired, if anything was written since: one query if nothing was."""
        newest = newest_entry()
        if newest == self._newest:
            return
        self._cases = watched_hosts()
        self._open = {case.host_id: case.drifts for case in self._cases.values()}
        self._newest = newest

    def forget(self, host_id: int) -> None:
        """The host was removed or has moved: what it held says nothing any more."""
        self._memories.pop(host_id, None)
        self._unsettled.discard(host_id)

    def recall(self, host_id: int) -> None:
        """Before the first reading is stored: what the last one of an earlier process was."""
        if host_id not in self._memories:
            before = last_reading(host_id)
            memory = Memory()
            self._memories[host_id] = memory if before is None else memory.after(_good(before))

    def judge(self, host_id: int, seen: Observation, busy: bool) -> Verdict | None:
        """Judge a reading and have its drift recorded. None where it says nothing: while a switch
        is open, and at the first reading after one, which may have begun before its end."""
        case = self._cases.get(host_id)
        memory = self._memories.get(host_id, Memory())
        if busy:
            self._memories[host_id] = memory.after(seen, judged=False)
            self._unsettled.add(host_id)
            return None
        if case is None or host_id in self._unsettled:
            self._memories[host_id] = memory.passing_over(seen)
            self._unsettled.discard(host_id)
            return None
        known = self._recorded(case, memory, seen)
        # Not before: where that failed, the next reading is judged by what was seen before this.
        if known is None:
            self._memories[host_id] = memory.passing_over(seen)
            self._unsettled.add(host_id)
            return None
        self._memories[host_id] = memory.after(seen)
        self._open[host_id] = known
        return Verdict(case, seen, known)

    def unsettled(self, host_id: int) -> bool:
        """Whether the next reading should come soon: this one said nothing."""
        return host_id in self._unsettled

    def _recorded(
        self, case: WatchedHost, memory: Memory, seen: Observation
    ) -> tuple[Recorded, ...] | None:
        before = self._open.get(case.host_id, ())
        memory = replace(memory, open=frozenset(d.key for d in before))
        found, kinds = find(case.desired, memory, seen), judged(seen)
        if {f.key for f in found} == {d.key for d in before if d.kind in kinds}:
            return before
        judgement = Judgement(
            host_id=case.host_id,
            active_digest=case.active_digest,
            active_since=case.active_since,
            read_at=seen.at,
            kinds=kinds,
            found=found,
            ending=partial(ending, case.desired, seen),
        )
        return drifts.record(judgement, self._clock)


def _good(before: Observation) -> Observation:
    """The last reading that answered; that later ones did not is no part of it."""
    return replace(before, error="")
