"""`audit`: verify, export and archive the trail, erase personal data, maintain key and index."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError
from django.utils.dateparse import parse_date

from switcher.audit import archiving, checkpoints, search_index
from switcher.audit.alarms import describe_error
from switcher.audit.erasure import WAITS, erase, held_of
from switcher.audit.export import CSV, FORMS, JSONL, begin, write
from switcher.audit.filters import NAMES, read_filters
from switcher.audit.text_index import rebuild_words
from switcher.audit.verification import Verified, verify
from switcher.audit.verifier.switchboard_verify import describe
from switcher.domain.clock import system
from switcher.domain.errors import BadRequest, TrailUnreadable
from switcher.management.terminal import TerminalCommand, actor
from switcher.models import ArchiveFile

# Exit codes. 2 is also argparse's for wrong usage.
DONE, DOES_NOT_HOLD, FAILED = 0, 1, 2

FILTER_HELP = {
    "host": "name of a host",
    "model": "tag of a model",
    "actor": "who did it",
    "kind": "a kind of entry, or a group: switches, configuration, people, audit, …",
    "outcome": "how a switch ended",
    "since": "a date, or a date and a time; UTC",
    "until": "the same; inclusive",
    "text": "words in the reason, all of them",
}
KEPT = (
    "Kept: who did what and when, by account name. The trail exists for that; if you want less in "
    "it, give accounts pseudonyms. Not erased: the account itself, which Django's admin deletes; "
    "logs, backups and exports."
)

Act = Callable[[dict[str, Any]], int]


class Command(TerminalCommand):
    help = "Verify, export and archive the audit trail, erase personal data, maintain its key."

    def add_arguments(self, parser: CommandParser) -> None:
        self._actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        text = "verify the trail: intact, anchored, complete; exit code 0 yes, 1 no, 2 not readable"
        check = self._add("verify", self._verify, text)
        check.add_argument("--json", action="store_true", help="print the verdicts as JSON")
        text = "also compare the columns to search by"
        check.add_argument("--index", action="store_true", help=text)
        self._add_export()
        self._add_archive()
        text = "erase the addresses and browsers that a person acted from"
        personal = self._add("erase-personal", self._erase, text)
        personal.add_argument("--user", required=True, help="the name of the account")
        personal.add_argument("--reason", default="", help="recorded in the entry about it")
        personal.add_argument("--dry-run", action="store_true", help="only say what is held")
        text = "make a new signing key; the old one vouches for it in an entry"
        self._add("rotate-key", self._rotate_key, text)
        text = "make the columns to search by again from the entries"
        self._add("rebuild-index", self._rebuild_index, text)

    def _add(self, name: str, act: Act, text: str) -> CommandParser:
        action: CommandParser = self._actions.add_parser(name, help=text)
        action.set_defaults(act=act)
        return action

    def _add_export(self) -> None:
        text = "write the trail to a file: all of it, or what the filters select"
        export = self._add("export", self._export, text)
        export.add_argument("file", type=Path, help="replaced completely, or not at all")
        export.add_argument("--format", choices=list(FORMS), help="default: by the file's name")
        export.add_argument("--json", action="store_true", help="print what was done as JSON")
        for name, about in FILTER_HELP.items():
            export.add_argument(f"--{name}", default="", help=about)
        export.add_argument(
            "--unreviewed", action="store_const", const="yes", default="", help="not reviewed yet"
        )

    def _add_archive(self) -> None:
        text = "move old entries to archive files, which verify by themselves"
        archive = self._add("archive", self._archive, text)
        which = archive.add_mutually_exclusive_group(required=True)
        which.add_argument("--before", metavar="DATE", help="entries from before this day, UTC")
        which.add_argument("--older-than", metavar="DAYS", type=int, help="entries of this age")
        archive.add_argument("--dry-run", action="store_true", help="only say what would be moved")
        archive.add_argument("--json", action="store_true", help="what was moved as JSON")

    def run_from_argv(self, argv: list[str]) -> None:
        """Exit with argparse's code 2 on wrong usage; 1 means that a verdict does not hold."""
        BaseCommand.run_from_argv(self, argv)

    def run(self, **options: Any) -> int:
        act: Act = options["act"]
        return act(options)

    def _verify(self, options: dict[str, Any]) -> int:
        bar = Bar(sys.stderr)
        try:
            verified = verify(bar, options["index"])
        except TrailUnreadable as exc:
            return self._fail(exc.text)
        except (DatabaseError, OSError) as exc:
            return self._fail(f"The trail cannot be read: {exc}")
        except Exception as exc:
            # Files and anchors can hold anything. Exit code 1 would be a verdict.
            return self._fail(f"The trail cannot be read: {describe_error(exc)}.")
        finally:
            bar.clear()
        if options["json"]:
            self.say_json(verified.to_json())
        else:
            self.say(text_of(verified))
        return DONE if verified.ok else DOES_NOT_HOLD

    def _fail(self, text: str) -> int:
        self.stderr.write(text)
        return FAILED

    def _export(self, options: dict[str, Any]) -> int:
        path: Path = options["file"]
        form = options["format"] or (CSV if path.suffix.lower() == ".csv" else JSONL)
        filters = read_filters({name: options[name] for name in NAMES})
        if not path.parent.is_dir():
            raise BadRequest(f"There is no directory {path.parent}.")
        try:
            entries = write(begin(form, filters, actor()), path)
        except OSError as exc:
            self.stderr.write(f"The file cannot be written: {exc}")
            return FAILED
        if options["json"]:
            self.say_json({"entries": entries, "file": str(path), "format": form})
        else:
            self.say(f"{entries:,} entries written to {path}.")
        return DONE

    def _archive(self, options: dict[str, Any]) -> int:
        before = _moment(options["before"], options["older_than"])
        checkpoints.sign()
        files = _find_due(before) if options["dry_run"] else _archive_all(before)
        if options["json"]:
            rows = [{"first": f.first, "last": f.last, "file": f.file_name} for f in files]
            self.say_json({"moved": rows, "dry_run": options["dry_run"]})
            return DONE
        verb = "would be moved" if options["dry_run"] else "were moved"
        for file in files:
            span = f"entries {file.first:,} to {file.last:,}"
            self.say(f"{file.count:,} {span} {verb} to {file.path}.")
        if not files:
            self.say(f"No entries from before {before:%Y-%m-%d %H:%M} UTC can be moved.")
        for name in archiving.orphans():
            why = "an attempt was cut off, or a backup was restored"
            self.say(f"{name} is not recorded: {why}.")
        return DONE

    def _erase(self, options: dict[str, Any]) -> int:
        name = options["user"]
        if options["dry_run"]:
            held = held_of(name)
            self.say(
                f"{held.origins:,} addresses and browsers of {name} would be erased. They acted in "
                f"{held.entries:,} entries and {held.switches:,} switches.\n{KEPT}"
            )
            return DONE
        erased = erase(name, actor(), options["reason"][:500])
        waits = "" if erased.gone else f"{WAITS}\n"
        count = f"{erased.origins:,} addresses and browsers"
        self.say(f"{count} of {name} were erased.\n{waits}{KEPT}")
        return DONE

    def _rotate_key(self, options: dict[str, Any]) -> int:
        public = checkpoints.rotate_key(actor())
        self.say(f"The new key signs from now on:\n{public}")
        return DONE

    def _rebuild_index(self, options: dict[str, Any]) -> int:
        bar = Bar(sys.stderr)
        made, removed = search_index.rebuild(actor(), bar)
        rebuild_words()
        bar.clear()
        self.say(f"{made:,} rows made or changed, {removed:,} removed.")
        return DONE


def text_of(verified: Verified) -> str:
    """Return the verdicts as text for people."""
    lines = [describe(verified.report)]
    if verified.index_differs == 0:
        lines.append("The index matches the entries.")
    elif verified.index_differs:
        first = ", ".join(f"{seq:,}" for seq in verified.index_first)
        lines.append(
            f"The index, or a mark of review, differs from {verified.index_differs:,} entries "
            f"(the first: {first}). "
            "Run: manage.py audit rebuild-index"
        )
    return "\n".join(lines)


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
    """Return one file for all entries that would be moved; checkpoints decide where each
    file ends.
    """
    due = archiving.find_due(before, sys.maxsize)
    return [due] if due is not None else []


def _archive_all(before: datetime) -> list[ArchiveFile]:
    bar, files = Bar(sys.stderr), []
    while (file := archiving.archive(before, actor(), on_progress=bar)) is not None:
        files.append(file)
    bar.clear()
    return files


class Bar:
    """A progress bar on terminals; elsewhere it prints nothing."""

    WIDTH = 40

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_at = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._stream.isatty() or now - self._shown_at < 0.1:
            return
        self._shown_at = now
        full = min(self.WIDTH, self.WIDTH * done // max(total, 1))
        bar = "#" * full + "." * (self.WIDTH - full)
        self._stream.write(f"\r[{bar}] {done:,} of {total:,}")
        self._stream.flush()

    def clear(self) -> None:
        """Remove the bar, so that the next output starts on an empty line."""
        if self._shown_at:
            self._stream.write("\r\033[K")
            self._stream.flush()
