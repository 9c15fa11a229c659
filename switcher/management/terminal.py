"""Shared by the commands: exit codes, errors, tables, sizes and times in words."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import OperationalError, ProgrammingError

from switcher.domain.errors import BadRequest, Conflict, NotFound, PlanBlocked, SwitcherError
from switcher.records import Actor
from switcher.records.people import at_this_terminal

ACTIVE, USAGE, ROLLED_BACK, FAILED, REFUSED = 0, 1, 3, 4, 5
NO_HOSTS = "There is no host yet. Add one: hosts add NAME http://ADDRESS:11434"

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?$", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class TerminalCommand(BaseCommand):
    """A command whose exit code tells the result; wrong usage gives 1."""

    requires_system_checks: list[str] = []

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
        except SystemExit as exc:
            if exc.code == 2:  # argparse's own code for wrong usage
                raise SystemExit(USAGE) from exc
            raise

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command, and exit with its code. An error is printed as one line on stderr."""
        try:
            code = self.run(**options)
        except SwitcherError as exc:
            if options.get("json"):
                self.say_json({"success": False, "error_code": exc.code, "error": exc.text})
            self.stderr.write(exc.text)
            code = code_of(exc)
        except (OperationalError, ProgrammingError) as exc:
            self.stderr.write(f"The database cannot be used: {exc}. Run `manage.py migrate`.")
            code = FAILED
        if code:
            sys.exit(code)

    def run(self, **options: Any) -> int:
        """Run the command and return the exit code."""
        raise NotImplementedError

    def say(self, text: str = "") -> None:
        self.stdout.write(text)
        self.stdout.flush()

    def say_json(self, value: Any) -> None:
        self.say(json.dumps(value, indent=2, ensure_ascii=False, default=str))

    def say_table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print aligned columns, three spaces apart, as `ollama ps` does."""
        widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.say("   ".join(cells).rstrip())


class ListCommand(TerminalCommand):
    """A command that prints a list, or runs the action that its first argument names."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the list as JSON")
        parser.set_defaults(action=self.print_list)
        self._actions = parser.add_subparsers()

    def add_action(
        self, name: str, run: Callable[[dict[str, Any]], None], text: str, *arguments: str
    ) -> CommandParser:
        """Add an action, with its help text and the arguments that it needs."""
        action: CommandParser = self._actions.add_parser(name, help=text)
        self._actions.metavar = " | ".join(self._actions.choices)
        action.set_defaults(action=run)
        for argument in arguments:
            action.add_argument(argument, metavar=argument.upper())
        return action

    def add_json(self, action: CommandParser) -> None:
        """Add `--json` to an action, in a way that does not undo a `--json` before the action's
        name."""
        default = argparse.SUPPRESS
        action.add_argument("--json", action="store_true", default=default, help="as JSON")

    def run(self, **options: Any) -> int:
        options["action"](options)
        return 0

    def print_list(self, options: dict[str, Any]) -> None:
        """Run the command without an action."""
        raise NotImplementedError


def code_of(exc: SwitcherError) -> int:
    """Return the exit code for a service's error."""
    if isinstance(exc, BadRequest | NotFound):
        return USAGE
    return REFUSED if isinstance(exc, Conflict | PlanBlocked) else FAILED


def actor() -> Actor:
    """Return the person at this terminal."""
    return at_this_terminal()


def size_bytes(text: str) -> int:
    """Parse `24GB` (decimal), `24GiB` or a plain number of bytes. For argparse."""
    match = _SIZE.match(text.strip())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write for example 24GB")
    base = 1024 if match[3] else 1000
    return round(float(match[1]) * float(base ** _POWERS[match[2].upper()]))


def up_to(most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from 1 to `most`. For argparse."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
        return int(text)

    return parse


def size_text(count: int) -> str:
    """Return a size in decimal units, as Ollama shows it: `5.1 GB`, `574 MB`."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB"


def marks_text(is_default: bool, simulated: bool) -> str:
    """Return the labels of a host: `default, simulated`."""
    return ", ".join(w for w, on in (("default", is_default), ("simulated", simulated)) if on)


def until_text(expires: datetime | None, stays: bool, now: datetime) -> str:
    """Return when an idle model is unloaded, in Ollama's own words."""
    if stays:
        return "Forever"
    if expires is None:
        return ""
    seconds = (expires - now).total_seconds()
    if seconds <= 0:
        return "Stopping..."
    if seconds < 90:
        return f"{seconds:.0f} seconds from now"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} minutes from now"
    return f"{minutes / 60:.0f} hours from now"
