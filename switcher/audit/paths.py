"""Where the keys, anchors, archive files and sinks are, from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from switcher.audit.signing_keys import KeyFiles

FILE, SYSLOG, WEBHOOK = "file", "syslog", "webhook"


@dataclass(frozen=True, slots=True)
class Sink:
    """A place outside the database to which checkpoints are sent. `target` is a path or an
    address."""

    name: str
    target: str


def key_files() -> KeyFiles:
    """Return the files of the signing key."""
    return KeyFiles(
        Path(settings.SWITCHER_AUDIT_KEY),
        Path(settings.SWITCHER_AUDIT_PUBLIC_KEYS),
        settings.SWITCHER_AUDIT_ORIGIN,
    )


def anchors() -> Path | None:
    """Return the file that checkpoints are appended to, if one is set."""
    return Path(settings.SWITCHER_AUDIT_ANCHORS) if settings.SWITCHER_AUDIT_ANCHORS else None


def archive_folder() -> Path:
    """Return the folder of the archive files."""
    return Path(settings.SWITCHER_AUDIT_SEGMENTS)


def sinks() -> tuple[Sink, ...]:
    """Return all sinks that are set."""
    targets = {
        FILE: settings.SWITCHER_AUDIT_ANCHORS,
        SYSLOG: settings.SWITCHER_AUDIT_SYSLOG,
        WEBHOOK: settings.SWITCHER_AUDIT_WEBHOOK,
    }
    return tuple(Sink(name, str(target)) for name, target in targets.items() if target)
