"""The tail of the trail: signs what was appended, brings checkpoints out, checks all of it daily.

One thread signs; another looks after the proofs, which takes minutes where it verifies or moves
millions of entries; each sink has one of its own, so that a dead one holds up nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TypeVar

from django.conf import settings
from django.db import connections

from switcher.audit import (
    archiving,
    checking,
    checkpoints,
    deliveries,
    erasure,
    health,
    immutability_triggers,
    subtrees,
)
from switcher.audit.checkpoints import KeyUnusable, TrailBroken
from switcher.audit.ledger import SERVER, changed
from switcher.audit.paths import Sink, sinks
from switcher.audit.sinks import NotDelivered, deliver
from switcher.domain.clock import Clock, is_within, system
from switcher.domain.errors import SwitcherError, TrailUnreadable

T = TypeVar("T")

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
# Between two looks, however much is written: a checkpoint covers many entries.
BREATH_S = 0.25
CHECK_EVERY = timedelta(days=1)
LONGEST_WAIT_S = 60.0
# After a move that failed: each try may write and verify a file of some 400 MB.
MOVE_AGAIN_S = 600.0
# What was not foreseen is an alarm after so many tries in a row: a database may be away for a
# moment.
ALARM_AFTER = 3
# At the end, what reads the trail may write how that came out before the last signature. It looks
# whether it is cut off after every thousand entries.
LAST_LOOK_S = 0.5


class Signer:
    """Signs when it is due and looks after the proofs. A test calls `begin`, `tick` and `look`.
    `look` may run beside the others."""

    def __init__(self, clock: Clock = system) -> None:
        self._clock = clock
        self._said = ""
        self._failures = Counter[str]()  # tries in a row that ended in what was not foreseen
        self._forgotten = 0  # the erasing up to which no older version of a row is left
        self._moves_from = 0.0  # on the monotonic clock
        self._tried_at: datetime | None = None  # to verify; also where that could not be noted

    def begin(self) -> None:
        """The start, and a first look."""
        self.start()
        self.look()

    def start(self) -> bool:
        """Seals are made again where they are missing, and what was appended since the last
        checkpoint is read, verified and signed. True once that is done."""
        with self._alarming("The seals of the database could not be looked at."):
            self._mend_seals()
        self.sign()
        return True

    def tick(self) -> None:
        """Sign, if it is due."""
        self._sign(lambda: checkpoints.is_due(self._clock))

    def sign(self) -> None:
        """Sign what there is, or give the alarm."""
        self._sign(lambda: True)

    def _sign(self, is_due: Callable[[], bool]) -> None:
        said = ""
        try:
            with self._alarming("The audit trail could not be signed."):
                if is_due():
                    checkpoints.sign(self._clock)
                    subtrees.keep()
        except (TrailBroken, TrailUnreadable, KeyUnusable) as exc:
            if exc.text != self._said:
                log.error(exc.text, extra={"action": exc.code})
            said = exc.text
            checkpoints.raise_alarm(exc.code, exc.text, self._clock)
        self._said = said

    def look(self) -> None:
        """See how the proofs stand; verify the whole trail if that is a day ago."""
        with suppress(checking.Cut), self._alarming("The audit trail could not be looked after."):
            self._look()

    @contextmanager
    def _alarming(self, text: str) -> Iterator[None]:
        """What nobody foresaw, such as a table that was altered, is an alarm where it lasts. It is
        raised on in any case: a thread has to begin anew."""
        try:
            yield
        except TrailUnreadable as exc:
            checkpoints.raise_alarm(exc.code, exc.text, self._clock)
            raise
        except (SwitcherError, checking.Cut):
            raise
        except Exception as exc:
            self._failures[text] += 1
            if self._failures[text] >= ALARM_AFTER:
                why = checking.words_of(exc)
                checkpoints.raise_alarm("upkeep", f"{text} {why}.", self._clock)
            raise
        self._failures[text] = 0

    def _look(self) -> None:
        found = health.health(self._clock)
        if found.triggers:
            self._mend_seals()
        for sink in found.trail.sinks:
            if sink.problem(found.trail.now):
                text = f"The {sink.name} sink does not take checkpoints."
                checkpoints.raise_alarm("sink", text, self._clock)
        signed = found.trail.signed or checkpoints.is_remembered()
        if signed and self._is_check_due(found.trail.now):
            if checking.run(SERVER, self._clock) is not None:
                self._tried_at = self._clock.now()
            deliveries.forget_delivered(self._clock)
        self._forget_erased()
        self._move_old()

    def _is_check_due(self, now: datetime) -> bool:
        """A day after the last one, whichever of this machine's processes made it; and after one
        that failed."""
        times = [at for at in (checking.last_at(), self._tried_at) if at is not None]
        return not any(is_within(CHECK_EVERY, at, now) for at in times)

    def _forget_erased(self) -> None:
        """What was erased stands in SQLite's log while somebody reads older rows. Every process
        empties it once for each erasing: who did it may have been a command that has ended."""
        newest = erasure.newest_erasing()
        if newest > self._forgotten and erasure.forget_older_versions():
            self._forgotten = newest

    def _move_old(self) -> None:
        """A segment at a time: signing goes on between two."""
        days, now = settings.SWITCHER_AUDIT_KEEP_DAYS, self._clock.monotonic()
        if not days or now < self._moves_from:
            return
        self._moves_from = now + MOVE_AGAIN_S  # unless it goes well
        try:
            before = self._clock.now() - timedelta(days=days)
            archiving.archive_on_schedule(before, SERVER, self._clock, checking.go_on)
        except (SwitcherError, OSError) as exc:
            text = f"Old entries could not be moved: {exc}"
            log.error(text, extra={"action": "not-archived"})
            checkpoints.raise_alarm("archive", text, self._clock)
        else:
            self._moves_from = 0.0

    def _mend_seals(self) -> None:
        remade = immutability_triggers.reseal()
        if remade:
            log.error("seals made again: %s", ", ".join(remade), extra={"action": "seals-remade"})
            checkpoints.note_seals_remade(remade, self._clock)


def sign_the_rest(clock: Clock = system) -> None:
    """Once all else has ended: what requests that were cut off have written since."""
    try:
        Signer(clock).sign()
    except Exception:
        log.exception("what was written last could not be signed; the next start does it")


class CheckpointDelivery:
    """Brings the checkpoints to one sink, the oldest first, until none is left."""

    def __init__(self, sink: Sink, clock: Clock = system) -> None:
        self._sink = sink
        self._clock = clock
        self._failures = 0

    def tick(self) -> float:
        """Deliver what is due; gives the seconds after which to look again."""
        while (claimed := deliveries.claim(self._sink.name, self._clock)) is not None:
            try:
                deliver(self._sink, claimed.note)
            except NotDelivered as exc:
                self._failures += 1
                wait_s = min(LONGEST_WAIT_S, 2.0**self._failures)
                deliveries.failed(claimed, str(exc), wait_s, self._clock)
                log.warning(
                    "the %s sink did not take a checkpoint: %s",
                    self._sink.name,
                    exc,
                    extra={"action": "not-delivered"},
                )
                return wait_s
            self._failures = 0
            deliveries.delivered(claimed, self._clock)
        return LOOK_EVERY_S


class Auditor:
    """The part of a server process that runs all of this in daemon threads."""

    def __init__(self, clock: Clock = system) -> None:
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._signed = threading.Event()  # the last checkpoint is made: couriers may end with it
        self._bell = threading.Event()
        self._sink_bells = {sink.name: threading.Event() for sink in sinks()}
        self._signer = Signer(clock)
        self._signing = threading.Thread(target=self._sign_on, name="audit", daemon=True)
        self._looking = threading.Thread(target=self._look_on, name="audit-look", daemon=True)
        self._bringing = [
            threading.Thread(
                target=self._bring_on,
                args=(CheckpointDelivery(sink, clock), self._sink_bells[sink.name]),
                name=f"audit-{sink.name}",
                daemon=True,
            )
            for sink in sinks()
        ]

    def start(self) -> None:
        changed.connect(self._on_change)
        for thread in (self._looking, self._signing, *self._bringing):
            thread.start()

    def stop(self, patience_s: float = 3.0) -> None:
        """Sign what is left, deliver it if that is quick, and end."""
        changed.disconnect(self._on_change)
        self._stop.set()
        self._bell.set()
        self._begun.set()
        checking.end()
        self._signing.join(patience_s)
        self._signed.set()
        self._ring_sinks()
        for thread in self._bringing:
            thread.join(patience_s / len(self._bringing))

    def _on_change(self, sender: object, **_: object) -> None:
        if sender == "checkpoint":
            self._ring_sinks()
        elif sender != "reading":
            self._bell.set()

    def _ring_sinks(self) -> None:
        for bell in self._sink_bells.values():
            bell.set()

    def _sign_on(self) -> None:
        while not self._stop.is_set() and not self._safely(self._signer.start):
            self._begun.set()  # what cannot be signed is looked at all the same
            self._stop.wait(LOOK_EVERY_S)
        self._begun.set()
        while not self._stop.is_set():
            self._bell.wait(LOOK_EVERY_S)
            self._bell.clear()
            self._safely(self._signer.tick)
            self._stop.wait(BREATH_S)
        self._looking.join(LAST_LOOK_S)
        checking.wait(LAST_LOOK_S)
        self._safely(self._signer.sign)
        connections.close_all()

    def _look_on(self) -> None:
        self._begun.wait()
        while not self._stop.is_set():
            self._safely(self._signer.look)
            self._stop.wait(LOOK_EVERY_S)
        connections.close_all()

    def _bring_on(self, courier: CheckpointDelivery, bell: threading.Event) -> None:
        wait_s = 0.0
        while not self._signed.is_set():
            if wait_s > LOOK_EVERY_S:
                self._signed.wait(wait_s)  # after a failure no bell is a reason to hurry
            else:
                bell.wait(wait_s)
            bell.clear()
            wait_s = self._safely(courier.tick) or LOOK_EVERY_S
        self._safely(courier.tick)
        connections.close_all()

    def _safely(self, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except Exception:
            # The top of a loop: logged, and tried again with the next look.
            log.exception("the audit trail could not be looked after")
            connections.close_all()
            return None
