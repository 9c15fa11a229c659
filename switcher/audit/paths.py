"""Where the trail's proofs lie and go to, from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from switcher.audit.signing_keys import KeyFiles

FILE, SYSLOG, WEBHOOK = "file", "syslog", "webhook"


@dataclass(frozen=True, slots=True)
class Sink:
    """A place outside of the database that checkpoints go to: a path, or an address."""

    name: str
    target: str


def key_files() -> KeyFiles:
    """The signing key and its public side."""
    return KeyFiles(
        Path(settings.SWITCHER_AUDIT_KEY),
        Path(settings.SWITCHER_AUDIT_PUBLIC_KEYS),
        settings.SWITCHER_AUDIT_ORIGIN,
    )


def anchors() -> Path | None:
    """The file that checkpoints are appended to, if one is."""
    return Path(settings.SWITCHER_AUDIT_ANCHORS) if settings.SWITCHER_AUDIT_ANCHORS else None


def segment_folder() -> Path:
    """Where entries go that are moved out of the database."""
    return Path(settings.SWITCHER_AUDIT_SEGMENTS)


def segment_name(first: int, last: int) -> str:
    """The name of the file with these entries, to write it and to read it."""
    return f"audit-{first:012d}-{last:012d}.jsonl"


def sinks() -> tuple[Sink, ...]:
    """All sinks that are set."""
    targets = {
        FILE: settings.SWITCHER_AUDIT_ANCHORS,
        SYSLOG: settings.SWITCHER_AUDIT_SYSLOG,
        WEBHOOK: settings.SWITCHER_AUDIT_WEBHOOK,
    }
    return tuple(Sink(name, str(target)) for name, target in targets.items() if target)
