"""`audit archive` and `audit erase-personal`: what leaves the database, and what is erased."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils.dateparse import parse_date

from switcher.audit import archiving, checkpoints
from switcher.audit.erasure import WAITS, erase, held_of
from switcher.audit.paths import segment_folder
from switcher.domain.clock import system
from switcher.domain.errors import BadRequest
from switcher.management.audit.verify import Bar
from switcher.management.terminal import TerminalCommand, actor


class Archive:
    name = "archive"
    help = "move old entries to sealed files, which verify by themselves"

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--before", metavar="DATE", help="entries from before this day, UTC")
        which.add_argument("--older-than", metavar="DAYS", type=int, help="by their age")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be moved")
        parser.add_argument("--json", action="store_true", help="what was moved as JSON")

    def run(self, command: TerminalCommand, **options: Any) -> int:
        before = _moment(options["before"], options["older_than"])
        checkpoints.sign()
        moved = _look(before) if options["dry_run"] else _move(before)
        if options["json"]:
            rows = [{"first": d.first, "last": d.last, "file": d.name} for d in moved]
            command.say_json({"moved": rows, "dry_run": options["dry_run"]})
            return 0
        verb = "would be moved" if options["dry_run"] else "were moved"
        for found in moved:
            span = f"entries {found.first:,} to {found.last:,}"
            command.say(f"{found.count:,} {span} {verb} to {segment_folder() / found.name}.")
        if not moved:
            command.say(f"No entries from before {before:%Y-%m-%d %H:%M} UTC can be moved.")
        for name in archiving.orphans():
            command.say(f"No segment tells of {name}: a try was cut off, or a backup restored.")
        return 0


def _moment(day: str | None, age: int | None) -> datetime:
    if age is not None:
        if age < 0:
            raise BadRequest("An age is a number of days from 0 on.", "older-than")
        return system.now() - timedelta(days=age)
    try:
        found = parse_date(day or "")
    except ValueError:
        found = None
    if found is None:
        raise BadRequest(f"A day is written like 2026-11-23, not {day}.", "before")
    return datetime(found.year, found.month, found.day, tzinfo=UTC)


def _look(before: datetime) -> list[archiving.Due]:
    """The first of what would be moved: where the next ends, its checkpoints decide."""
    found = archiving.due(before, most=sys.maxsize)
    return [found] if found is not None else []


def _move(before: datetime) -> list[archiving.Due]:
    bar, moved = Bar(sys.stderr), []
    while (found := archiving.archive(before, actor(), tell=bar)) is not None:
        moved.append(found)
    bar.clear()
    return moved


KEPT = (
    "Kept: who did what and when, by the name of the account. It is what the trail is for; who "
    "wants less in it gives accounts pseudonyms. Not reached: the account itself, which Django's "
    "admin deletes; logs, backups and exports."
)


class ErasePersonal:
    name = "erase-personal"
    help = "erase the addresses and browsers that a person acted from"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--user", required=True, help="the name of the account")
        parser.add_argument("--reason", default="", help="stands in the entry that tells of it")
        parser.add_argument("--dry-run", action="store_true", help="only say what is held")

    def run(self, command: TerminalCommand, **options: Any) -> int:
        name = options["user"]
        if options["dry_run"]:
            held = held_of(name)
            command.say(
                f"{held.places:,} addresses and browsers of {name} would be erased. They acted in "
                f"{held.entries:,} entries and {held.switches:,} switches.\n{KEPT}"
            )
            return 0
        erased = erase(name, actor(), options["reason"][:500])
        waits = "" if erased.gone else f"{WAITS}\n"
        many = f"{erased.places:,} addresses and browsers"
        command.say(f"{many} of {name} were erased.\n{waits}{KEPT}")
        return 0
