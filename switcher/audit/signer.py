"""Background work on the audit trail: sign new entries, deliver checkpoints, verify once a day."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from django.conf import settings

from switcher.audit import (
    archiving,
    checkpoints,
    deliveries,
    erasure,
    health,
    immutability_triggers,
    verification,
)
from switcher.audit.alarms import describe_error, raise_alarm
from switcher.audit.checkpoints import TrailBroken
from switcher.audit.deliveries import Deliverer
from switcher.audit.ledger import SERVER, append, changed, writing
from switcher.audit.paths import sinks
from switcher.audit.signing_keys import KeyRefused
from switcher.concurrency.loop import Loop
from switcher.domain.clock import Clock, is_within, system
from switcher.domain.errors import SwitcherError, TrailUnreadable

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
# Between two checkpoints, however much is written: one covers many entries.
SIGN_PAUSE_S = 0.25
VERIFY_INTERVAL = timedelta(days=1)
# After archiving has failed: each attempt may write and verify a file of some 400 MB.
ARCHIVE_RETRY_S = 600.0
# An unexpected error is an alarm after this many in a row: a database may be away for a moment.
ALARM_AFTER = 3
# At the end, readers of the trail may append their result before the last signature. They check
# after every thousand entries whether to stop.
CUT_PATIENCE_S = 0.5


class _Alarming:
    """Raises alarms about unexpected errors."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = Counter[str]()  # in a row

    @contextmanager
    def __call__(self, text: str) -> Iterator[None]:
        """Raise an alarm about an unexpected error that persists, such as an altered table, and
        about an unreadable row. The error itself is raised again in any case."""
        try:
            yield
        except TrailUnreadable as exc:
            raise_alarm(exc.code, exc.text, self._clock)
            raise
        except (SwitcherError, verification.Cut):
            raise
        except Exception as exc:
            self._failures[text] += 1
            if self._failures[text] >= ALARM_AFTER:
                raise_alarm("upkeep", f"{text} {describe_error(exc)}.", self._clock)
            raise
        self._failures[text] = 0


class Signer:
    """A loop that signs entries when they are due."""

    def __init__(self, clock: Clock = system) -> None:
        self._clock = clock
        self._alarming = _Alarming(clock)
        self._has_started = False
        self._logged = ""

    def tick(self) -> None:
        """Sign entries if that is due. The first tick repairs the triggers and always signs."""
        if not self._has_started:
            with self._alarming("The triggers of the database could not be checked."):
                mend_triggers(self._clock)
            self.sign()
            self._has_started = True
        with self._alarming("The audit trail could not be signed."):
            is_due = checkpoints.is_due(self._clock)
        if is_due:
            self.sign()

    def sign(self) -> None:
        """Sign all entries, or raise an alarm."""
        try:
            with self._alarming("The audit trail could not be signed."):
                checkpoints.sign(self._clock)
        except (TrailBroken, TrailUnreadable, KeyRefused) as exc:
            if exc.text != self._logged:
                log.error(exc.text, extra={"action": exc.code})
            self._logged = exc.text
            raise_alarm(exc.code, exc.text, self._clock)
        else:
            self._logged = ""


class Upkeep:
    """A loop that maintains the proofs: triggers, sinks, daily verification, erased rows, old
    entries.
    """

    def __init__(self, clock: Clock = system) -> None:
        self._clock = clock
        self._alarming = _Alarming(clock)
        self._erased_upto = 0  # the last erasure of which no older row versions are left
        self._archive_from = 0.0  # on the monotonic clock
        self._verified_at: datetime | None = None  # set even if that could not be recorded

    def tick(self) -> None:
        """Do all upkeep that is due. It may run while entries are signed."""
        with (
            suppress(verification.Cut),
            self._alarming("The upkeep of the audit trail failed."),
        ):
            found = health.health(self._clock)
            if found.triggers:
                mend_triggers(self._clock)
            for sink in found.trail.sinks:
                if sink.problem(found.trail.now):
                    text = f"The {sink.name} sink does not take checkpoints."
                    raise_alarm("sink", text, self._clock)
            if found.trail.signed or checkpoints.is_remembered():
                self._verify_daily(found.trail.now)
            self._forget_erased()
            self._archive_old()

    def _verify_daily(self, now: datetime) -> None:
        """Verify a day after the last attempt by any process of this machine, even if that one
        failed."""
        times = [at for at in (verification.last_run_at(), self._verified_at) if at is not None]
        if any(is_within(VERIFY_INTERVAL, at, now) for at in times):
            return
        if verification.run(SERVER, self._clock) is not None:
            self._verified_at = self._clock.now()
        deliveries.forget_delivered(self._clock)

    def _forget_erased(self) -> None:
        """Empty SQLite's log once after each erasure, in every process: the command that erased may
        have ended while another process still read older rows."""
        newest = erasure.newest_erasure()
        if newest > self._erased_upto and erasure.forget_older_versions():
            self._erased_upto = newest

    def _archive_old(self) -> None:
        """Archive one file at a time, so that signing can continue in between."""
        days, now = settings.SWITCHER_AUDIT_KEEP_DAYS, self._clock.monotonic()
        if not days or now < self._archive_from:
            return
        self._archive_from = now + ARCHIVE_RETRY_S  # unless it succeeds
        try:
            before = self._clock.now() - timedelta(days=days)
            on_progress = verification.stop_if_ending
            archiving.archive_on_schedule(before, SERVER, self._clock, on_progress)
        except (SwitcherError, OSError) as exc:
            text = f"Old entries could not be archived: {exc}"
            log.error(text, extra={"action": "not-archived"})
            raise_alarm("archive", text, self._clock)
        else:
            self._archive_from = 0.0


def mend_triggers(clock: Clock = system) -> None:
    """Recreate missing or altered triggers, and record that."""
    remade = immutability_triggers.remake()
    if not remade:
        return
    log.error("triggers made again: %s", ", ".join(remade), extra={"action": "seals-remade"})
    reason = "Triggers of the database were missing or altered."
    with writing():
        append("audit.seal-remade", SERVER, clock=clock, reason=reason, seals=remade)


def sign_the_rest(clock: Clock = system) -> None:
    """Sign what interrupted requests have written, once all else has stopped."""
    try:
        Signer(clock).sign()
    except Exception:
        log.exception("the last entries could not be signed; the next start does it")


class AuditLoops:
    """The audit work of a server process, in several loops. One signs. One maintains the proofs,
    which takes minutes with millions of entries. Each sink has a loop of its own, so that a dead
    sink delays nothing else."""

    def __init__(self, clock: Clock = system) -> None:
        signer = Signer(clock)
        self._signing = Loop(
            "audit-sign", signer.tick, INTERVAL_S, pause_s=SIGN_PAUSE_S, at_end=signer.sign
        )
        self._upkeep = Loop("audit-upkeep", Upkeep(clock).tick, INTERVAL_S)
        self._delivering = []
        for sink in sinks():
            tick = Deliverer(sink, clock).tick
            self._delivering.append(Loop(f"audit-{sink.name}", tick, INTERVAL_S, at_end=tick))

    def start(self) -> None:
        changed.connect(self._on_change)
        for loop in (self._signing, self._upkeep, *self._delivering):
            loop.start()

    def stop(self, patience_s: float = 3.0) -> None:
        """Interrupt readers of the trail, sign the rest, deliver it if that is quick, and end."""
        changed.disconnect(self._on_change)
        verification.end()
        self._upkeep.stop(CUT_PATIENCE_S)
        verification.wait(CUT_PATIENCE_S)
        self._signing.stop(patience_s - 2 * CUT_PATIENCE_S)
        for loop in self._delivering:
            loop.stop()
        for loop in self._delivering:
            loop.stop(patience_s / len(self._delivering))

    def _on_change(self, sender: object, **_: object) -> None:
        if sender == "checkpoint":
            for loop in self._delivering:
                loop.wake()
        elif sender != "reading":
            self._signing.wake()
