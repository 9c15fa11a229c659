"""One process's run: told when it begins and ends; those that could not tell their end are found.

While a process runs it holds a lock on a file of its own in the data directory. The lock goes with
the process, however that ends; a file that nobody has locked is of one that was killed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import threading
from dataclasses import asdict
from pathlib import Path

from django.conf import settings
from django.db import connections

from switcher.audit import process_entries
from switcher.audit.process_entries import Process
from switcher.domain.clock import Clock, system

log = logging.getLogger(__name__)

AGAIN_S = 2.0


class Run:
    """This process, in a role: server or gateway. `start` and `stop` once each."""

    def __init__(self, role: str, clock: Clock = system) -> None:
        self._role = role
        self._clock = clock
        self._path = folder() / secrets.token_hex(8)
        self._process: Process | None = None  # once it is told of
        self._lock: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._begin, name="run", daemon=True)

    def start(self) -> None:
        """In a thread: an event loop may not wait for the database."""
        self._thread.start()

    def stop(self, patience_s: float = 3.0) -> None:
        """Tell the end, of a start that was told."""
        self._stop.set()
        self._thread.join(patience_s)
        try:
            if self._process is not None:
                process_entries.stopped(self._process, self._clock)
            self._path.unlink(missing_ok=True)
            if self._lock is not None:
                os.close(self._lock)
        finally:
            connections.close_all()

    def _begin(self) -> None:
        """Until it is done: the database may be away for a moment, or locked."""
        while not self._stop.is_set():
            try:
                tell_lost(self._clock)
                process = process_entries.this_process(self._path.name, self._role)
                self._keep(process)
                process_entries.started(process, self._clock)
                self._process = process
                break
            except Exception:
                log.exception("the start could not be written down; it is tried again")
                self._stop.wait(AGAIN_S)
            finally:
                connections.close_all()

    def _keep(self, process: Process) -> None:
        """The file appears under its name whole and locked, and before its entry: a process that is
        killed between the two is not told of at all."""
        if self._lock is not None:
            os.close(self._lock)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = self._path.with_suffix(".new")
        self._lock = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.write(self._lock, json.dumps(asdict(process)).encode())
        draft.rename(self._path)


def folder() -> Path:
    """Where the runs of this machine's processes are kept while they last."""
    return Path(settings.DATA_DIR) / "runs"


def tell_lost(clock: Clock = system) -> None:
    """Tell of the processes that are gone and have not said so."""
    for path in sorted(folder().glob("*")):
        process = _gone(path)
        if process is not None:
            process_entries.lost(process, clock)
            path.unlink(missing_ok=True)


def _gone(path: Path) -> Process | None:
    """The process that a file is of, if that is gone; None where it runs, or this is no run."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # another start was here first
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Process(**json.loads(os.read(file, 10_000)))
    except (BlockingIOError, ValueError, TypeError):
        return None
    finally:
        os.close(file)
