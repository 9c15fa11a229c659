"""`audit archive` and `audit erase-personal`: what leaves the database, and what is erased."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils.dateparse import parse_date

from switcher.audit import archiving, checkpoints
from switcher.audit.erasure import WAITS, erase, held_of
from switcher.domain.clock import system
from switcher.domain.errors import BadRequest
from switcher.management.audit.verify import Bar
from switcher.management.terminal import TerminalCommand, actor
from switcher.models import ArchiveFile


class Archive:
    name = "archive"
    help = "move old entries to archive files, which verify by themselves"

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--before", metavar="DATE", help="entries from before this day, UTC")
        which.add_argument("--older-than", metavar="DAYS", type=int, help="entries of this age")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be moved")
        parser.add_argument("--json", action="store_true", help="what was moved as JSON")

    def run(self, command: TerminalCommand, **options: Any) -> int:
        before = _moment(options["before"], options["older_than"])
        checkpoints.sign()
        files = _find_due(before) if options["dry_run"] else _archive(before)
        if options["json"]:
            rows = [{"first": f.first, "last": f.last, "file": f.file_name} for f in files]
            command.say_json({"moved": rows, "dry_run": options["dry_run"]})
            return 0
        verb = "would be moved" if options["dry_run"] else "were moved"
        for file in files:
            span = f"entries {file.first:,} to {file.last:,}"
            command.say(f"{file.count:,} {span} {verb} to {file.path}.")
        if not files:
            command.say(f"No entries from before {before:%Y-%m-%d %H:%M} UTC can be moved.")
        for name in archiving.orphans():
            command.say(
                f"{name} is not recorded: an attempt was cut off, or a backup was restored."
            )
        return 0


def _moment(day: str | None, age: int | None) -> datetime:
    if age is not None:
        if age < 0:
            raise BadRequest("The age is a number of days, 0 or more.", "older-than")
        return system.now() - timedelta(days=age)
    try:
        found = parse_date(day or "")
    except ValueError:
        found = None
    if found is None:
        raise BadRequest(f"Write a day like 2026-11-23, not {day}.", "before")
    return datetime(found.year, found.month, found.day, tzinfo=UTC)


def _find_due(before: datetime) -> list[ArchiveFile]:
    """Return one file for all that would be moved: checkpoints decide where each file ends."""
    due = archiving.find_due(before, sys.maxsize)
    return [due] if due is not None else []


def _archive(before: datetime) -> list[ArchiveFile]:
    bar, files = Bar(sys.stderr), []
    while (file := archiving.archive(before, actor(), on_progress=bar)) is not None:
        files.append(file)
    bar.clear()
    return files


KEPT = (
    "Kept: who did what and when, by account name. The trail exists for that; if you want less in "
    "it, give accounts pseudonyms. Not erased: the account itself, which Django's admin deletes; "
    "logs, backups and exports."
)


class ErasePersonal:
    name = "erase-personal"
    help = "erase the addresses and browsers that a person acted from"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--user", required=True, help="the name of the account")
        parser.add_argument("--reason", default="", help="recorded in the entry about it")
        parser.add_argument("--dry-run", action="store_true", help="only say what is held")

    def run(self, command: TerminalCommand, **options: Any) -> int:
        name = options["user"]
        if options["dry_run"]:
            held = held_of(name)
            command.say(
                f"{held.origins:,} addresses and browsers of {name} would be erased. They acted in "
                f"{held.entries:,} entries and {held.switches:,} switches.\n{KEPT}"
            )
            return 0
        erased = erase(name, actor(), options["reason"][:500])
        waits = "" if erased.gone else f"{WAITS}\n"
        count = f"{erased.origins:,} addresses and browsers"
        command.say(f"{count} of {name} were erased.\n{waits}{KEPT}")
        return 0
