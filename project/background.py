"""The background work of a server process: the worker, the watcher and the audit work.

Each part has its own daemon threads, since an executor's threads would keep the process from
exiting.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

log = logging.getLogger(__name__)

# How long a running switch has to end before it is left to the next start.
SWITCH_TIMEOUT_S = 5.0
# How long the parts marked `last` wait for the others.
FIRST_TIMEOUT_S = 5.5


@dataclass(frozen=True, slots=True)
class Part:
    """A part that runs until `stop`, which may take a while. Parts with `last` are stopped one by
    one after the others have ended, because they record how those ended."""

    name: str
    start: Callable[[], None]
    stop: Callable[[], object]
    last: bool = False


def assemble(*, worker: bool = True, watcher: bool = True, auditor: bool = True) -> list[Part]:
    """Return the parts of a server, in the order in which they start."""
    from switcher.audit.clock_jumps import ClockWatch
    from switcher.audit.server_processes import ProcessRun
    from switcher.audit.signer import AuditLoops
    from switcher.switching.worker import Worker
    from switcher.watching.loop import Watcher

    parts = []
    if auditor:
        audits, run, clock = AuditLoops(), ProcessRun("server"), ClockWatch()
        parts.append(Part("auditor", audits.start, audits.stop, last=True))
        parts.append(Part("run", run.start, run.stop, last=True))
        parts.append(Part("clock watch", clock.start, clock.stop))
    if watcher:
        watches = Watcher()
        parts.append(Part("watcher", watches.start, watches.stop))
    if worker:
        works = Worker()
        parts.append(Part("worker", works.start, lambda: works.stop(SWITCH_TIMEOUT_S)))
    return parts


class Background:
    """The parts of one server process. Call `start` once, `stop` any number of times."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._started: list[Part] = []
        self._stopping: list[threading.Thread] | None = None

    def start(self) -> None:
        for part in self._parts:
            part.start()
            self._started.append(part)
            log.info("the %s runs", part.name, extra={"action": "part-started"})

    async def stop(self, seconds: float) -> bool:
        """Stop all parts and wait for them, at most `seconds`. Return whether they have ended.

        It polls: joining in an executor would leave a thread that delays the exit.
        """
        if self._stopping is None:
            self._stopping = self._stop_all()
        until = asyncio.get_running_loop().time() + seconds
        while any(thread.is_alive() for thread in self._stopping):
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(0.02)
        return True

    def _stop_all(self) -> list[threading.Thread]:
        parts = self._started[::-1]
        first = [_in_thread(partial(_stop, part)) for part in parts if not part.last]

        def stop_last() -> None:
            until = time.monotonic() + FIRST_TIMEOUT_S
            for thread in first:
                thread.join(max(0.0, until - time.monotonic()))
            for part in parts:
                if part.last:
                    _stop(part)

        return [*first, _in_thread(stop_last)]


def _stop(part: Part) -> None:
    try:
        part.stop()
    except Exception:
        log.exception("the %s failed to stop", part.name, extra={"action": "stop-failed"})


def _in_thread(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, name="stop", daemon=True)
    thread.start()
    return thread
