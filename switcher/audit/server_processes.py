"""Records the start and end of each server process, and processes that were killed.

While a process runs, it holds a lock on a file of its own in the data directory. The operating
system releases the lock however the process ends, so an unlocked file belongs to a process that was
killed.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.db import connection, connections

from switcher import __version__
from switcher.audit.archive_files import last_archived
from switcher.audit.ledger import SERVER, append, writing
from switcher.audit.ledger_reader import newest_seq
from switcher.concurrency.loop import Loop
from switcher.domain.clock import Clock, system
from switcher.models import AuditEntry, LedgerRow

STARTED, STOPPED, LOST = "server.started", "server.stopped", "server.lost"
RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Process:
    """A server process. `role` is server or gateway. All its entries have numbers above
    `behind`."""

    run: str
    role: str
    version: str
    behind: int


class ProcessRun:
    """A run of this process: call `start` and `stop` once each."""

    def __init__(self, role: str, clock: Clock = system) -> None:
        self._role = role
        self._clock = clock
        self._path = runs_folder() / secrets.token_hex(8)
        self._process: Process | None = None  # once its start is recorded
        self._lock: int | None = None
        self._loop = Loop("process-run", self._record_start, RETRY_S)

    def start(self) -> None:
        """Record the start of the process, in a thread, so that an event loop need not wait for the
        database."""
        self._loop.start()

    def stop(self, patience_s: float = 3.0) -> None:
        """Record the end, if the start was recorded."""
        self._loop.stop(patience_s)
        try:
            if self._process is not None:
                _append(STOPPED, self._process, self._clock)
            self._path.unlink(missing_ok=True)
            if self._lock is not None:
                os.close(self._lock)
        finally:
            connections.close_all()

    def _record_start(self) -> float:
        record_lost(self._clock)
        process = Process(self._path.name, self._role, __version__, newest_seq())
        self._write_locked(process)
        _append(
            STARTED,
            process,
            self._clock,
            machine=platform.node(),
            python=platform.python_version(),
            django=django.get_version(),
            database=connection.vendor,
        )
        self._process = process
        return math.inf

    def _write_locked(self, process: Process) -> None:
        """Create the file, complete and locked, before the entry is appended: if the process is
        killed in between, it is not recorded as lost."""
        if self._lock is not None:
            os.close(self._lock)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = self._path.with_suffix(".new")
        self._lock = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.write(self._lock, json.dumps(asdict(process)).encode())
        draft.rename(self._path)


def runs_folder() -> Path:
    """Return the folder with a file for each process that runs on this machine."""
    return Path(settings.DATA_DIR) / "runs"


def record_lost(clock: Clock = system) -> None:
    """Record the processes that were killed."""
    for path in sorted(runs_folder().glob("*")):
        process = _read_unlocked(path)
        if process is not None:
            _append_lost(process, clock)
            path.unlink(missing_ok=True)


def _read_unlocked(path: Path) -> Process | None:
    """Return the process that a file belongs to; None if it still runs, or if this is another kind
    of file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # Lost race: another start has removed it.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Process(**json.loads(os.read(file, 10_000)))
    except (BlockingIOError, ValueError, TypeError):
        return None
    finally:
        os.close(file)


def _append_lost(process: Process, clock: Clock) -> None:
    """Append an entry that the process was killed, if its start was recorded and its end was
    not."""
    with writing():
        kinds = _kinds_of_entries(process)
        # The entry of its start may have been moved to an archive file.
        was_started = STARTED in kinds or process.behind < last_archived()
        if was_started and not kinds & {STOPPED, LOST}:
            _append(LOST, process, clock)


def _kinds_of_entries(process: Process) -> set[str]:
    rows = AuditEntry.objects.filter(kind__startswith="server.", seq__gt=process.behind)
    kinds = dict(rows.values_list("seq", "kind"))
    own = LedgerRow.objects.filter(pk__in=kinds, body__contains=f'"run":"{process.run}"')
    return {kinds[seq] for seq in own.values_list("seq", flat=True)}


def _append(kind: str, process: Process, clock: Clock, **facts: Any) -> None:
    with writing():
        append(
            kind,
            SERVER,
            clock=clock,
            run=process.run,
            role=process.role,
            version=process.version,
            **facts,
        )
