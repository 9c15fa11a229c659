"""Keeps switches apart from forwarding on stale routes, without the database.

This is for SQLite only, where all processes are on one machine: the kernel's locks on files work
while the disk is full, and end with their process. Each host has two files beside the database, and
a flag is a shared lock on one of them. Each side raises its own flag first, then looks at the
other's. So a switch of a host and forwarding to it on stale routes never overlap.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from django.db import connection

UNKNOWN_VERSION = -1  # never equal to a version


class Flag:
    """A raised flag. Call `lower` once; it is also lowered if the process ends."""

    def __init__(self, path: Path | None) -> None:
        self._fd = -1 if path is None else os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
        if path is not None:
            # Others lock a file exclusively only for the moment of looking at it.
            fcntl.flock(self._fd, fcntl.LOCK_SH)

    def lower(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def change_version(self) -> None:
        """Give the file a new time, so that routes read before this are recognised as outdated."""
        if self._fd >= 0:
            now = max(time.time_ns(), os.fstat(self._fd).st_mtime_ns + 1)
            with suppress(OSError):  # where no file can be changed, no switch can be recorded
                os.utime(self._fd, ns=(now, now))


class SwitchFlag(Flag):
    """Says that a switch of a host is under way. As several may be raised, a process that was
    paused does not block the one that takes over its switch."""

    def lower(self) -> None:
        self.change_version()
        super().lower()


def raise_for_switch(host_id: int) -> SwitchFlag | None:
    """Return a raised flag; None while a process forwards to this host on stale routes."""
    switching, forwarding = _paths(host_id)
    flag = SwitchFlag(switching)
    if _is_raised(forwarding):
        Flag.lower(flag)
        return None
    flag.change_version()
    return flag


def raise_for_forwarding(host_id: int, version: int) -> Flag | None:
    """Return a raised flag; None if a switch of this host is under way, or was since `version`, or
    if this cannot be known."""
    switching, forwarding = _paths(host_id)
    if switching is None or version == UNKNOWN_VERSION:
        return None
    try:
        flag = Flag(forwarding)
        if not _is_raised(switching) and switching.stat().st_mtime_ns == version:
            return flag
        flag.lower()
    except OSError:
        pass  # no file can be opened, so nothing can be known
    return None


def version_of(host_id: int) -> int:
    """Return a number that each switch of this host changes at its beginning and its end.

    Creates the files, which may be impossible by the time that they are needed.
    """
    switching, forwarding = _paths(host_id)
    if switching is None or forwarding is None:
        return UNKNOWN_VERSION
    try:
        if not forwarding.exists():
            forwarding.touch(0o600)
        if not switching.exists():
            switching.touch(0o600)
        return switching.stat().st_mtime_ns
    except OSError:
        return UNKNOWN_VERSION


def _paths(host_id: int) -> tuple[Path, Path] | tuple[None, None]:
    """Return the files of the flags for switching and for forwarding; None without SQLite."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor != "sqlite" or name.startswith((":memory:", "file:")):
        return None, None
    return Path(f"{name}-switching-{host_id}"), Path(f"{name}-forwarding-{host_id}")


def _is_raised(path: Path | None) -> bool:
    if path is None:
        return False
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
