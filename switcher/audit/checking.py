"""Verifying the whole trail, one at a time in a process; what came out is an entry of its own."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from django.db import connections

from switcher.audit.checkpoints import note_check_failed, note_checked, raise_alarm
from switcher.audit.ledger import Actor, changed
from switcher.audit.paths import key_files
from switcher.audit.signing_keys import KeyRefused
from switcher.audit.verification import Verified, verify
from switcher.domain.clock import Clock, read_moment, system

log = logging.getLogger(__name__)

# After every thousand entries, which take some 4 ms: pages and clients are served meanwhile.
BREATH_S = 0.002


class Cut(Exception):
    """The process ends before what reads the trail has: nothing is written down of it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A verification that runs or has ended in this process."""

    by: str
    began_at: datetime
    done: int = 0
    total: int = 0
    ended_at: datetime | None = None
    result: Verified | None = None
    error: str = ""

    @property
    def runs(self) -> bool:
        return self.ended_at is None

    @property
    def percent(self) -> int:
        return min(100, self.done * 100 // self.total) if self.total else 0


_lock = threading.Lock()
_progress: Progress | None = None
_idle = threading.Event()
_idle.set()
_ends = threading.Event()


def progress() -> Progress | None:
    """The one that runs, or the last one of this process."""
    return _progress


def forget() -> None:
    """Drop what is known: for a new start in the same process."""
    global _progress
    with _lock:
        _progress = None
    _ends.clear()


def end() -> None:
    """The process ends: what reads the trail is cut off, and nothing new begins."""
    _ends.set()


def wait(patience_s: float) -> None:
    """Until none runs any more: what it found is written down then, or never will be."""
    _idle.wait(patience_s)


def go_on(done: int = 0, total: int = 0) -> None:
    """Called by what reads the trail, before it writes something down, too. Raises Cut."""
    if _ends.is_set():
        raise Cut


def start(actor: Actor, clock: Clock = system) -> bool:
    """Verify in a thread of its own. False: one runs already."""
    if not _begin(actor, clock):
        return False
    threading.Thread(
        target=_run_and_close, args=(actor, clock), name="audit-verify", daemon=True
    ).start()
    return True


def run(actor: Actor, clock: Clock = system) -> Progress | None:
    """Verify here and now; gives how it ended. None: one runs already. Raises Cut."""
    if not _begin(actor, clock):
        return None
    _run(actor, clock)
    return _progress


def _begin(actor: Actor, clock: Clock) -> bool:
    global _progress
    with _lock:
        if _ends.is_set() or (_progress is not None and _progress.runs):
            return False
        _progress = Progress(actor.name, clock.now())
        _idle.clear()
        return True


def _run_and_close(actor: Actor, clock: Clock) -> None:
    try:
        with suppress(Cut):
            _run(actor, clock)
    finally:
        connections.close_all()


def _run(actor: Actor, clock: Clock) -> None:
    try:
        _verify(actor, clock)
    finally:
        _idle.set()


def _verify(actor: Actor, clock: Clock) -> None:
    def tell(done: int, total: int) -> None:
        _update(done=done, total=total)
        go_on()
        clock.sleep(BREATH_S)

    try:
        result = verify(tell)
        go_on()
        write_down(result, actor, clock)
    except Cut:
        _update(ended_at=clock.now(), error="It was cut off.")
        raise
    except Exception as exc:
        # The top of a thread: whatever it is, the verification has ended.
        log.exception("the audit trail could not be verified", extra={"action": "verify-failed"})
        why = f"It could not be read to its end: {words_of(exc)}."
        _update(ended_at=clock.now(), error=why)
        if not _ends.is_set():
            _tell_failed(why, actor, clock)
    else:
        _update(ended_at=clock.now(), result=result)
    _remember(clock.now())
    changed.send_robust(sender="verified")


def last_at() -> datetime | None:
    """When a server of this machine last verified the whole trail, or tried to, as its files have
    it."""
    try:
        return read_moment(key_files().remembered_check())
    except (KeyRefused, ValueError):
        return None


def _remember(at: datetime) -> None:
    try:
        key_files().remember_check(at.isoformat())
    except KeyRefused as exc:
        log.warning("when it was verified could not be kept: %s", exc)


def _tell_failed(why: str, actor: Actor, clock: Clock) -> None:
    """What keeps the trail from being verified may also be what somebody did to it."""
    try:
        note_check_failed(why, actor, clock)
        raise_alarm("check", f"The audit trail could not be verified. {why}", clock)
    except Exception:
        # The same top: the database cannot be written either. That it failed is known all the same.
        log.exception("a failed verification could not be written down")


def words_of(exc: Exception) -> str:
    """What was raised, in a line: where it is of a file, without its path."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    text = str(exc).encode("utf-8", "replace").decode().replace("\0", " ")
    return " ".join(f"{type(exc).__name__}: {text}".split())[:300].rstrip(".: ")


def _update(**facts: object) -> None:
    global _progress
    with _lock:
        if _progress is not None:
            _progress = replace(_progress, **facts)  # type: ignore[arg-type]


def write_down(result: Verified, actor: Actor, clock: Clock = system) -> None:
    """An entry that says what was found, and an alarm where that is bad."""
    report = result.report
    note_checked(result.to_json(), actor, clock)
    if report.ok:
        log.info("the audit trail is intact, anchored and complete: %d entries", report.last_seq)
        return
    text = f"The audit trail does not verify: {report.problems[0]}"
    log.error(text, extra={"action": "trail-bad"})
    raise_alarm("trail", text, clock)
