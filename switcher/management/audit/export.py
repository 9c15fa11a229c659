"""`audit export`: write the trail, or a selection of it, to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from switcher.audit.export import CSV, FORMS, JSONL, begin, write
from switcher.audit.filters import NAMES, read_filters
from switcher.domain.errors import BadRequest
from switcher.management.terminal import TerminalCommand, actor

WRITTEN, NOT_WRITTEN = 0, 2
_HELP = {
    "host": "name of a host",
    "model": "tag of a model",
    "actor": "who did it",
    "kind": "a kind of entry, or a group: switches, configuration, people, audit, …",
    "outcome": "how a switch ended",
    "since": "a date, or a date and a time; UTC",
    "until": "the same; inclusive",
    "text": "words in the reason, all of them",
}


class ExportTrail:
    name = "export"
    help = "write the trail to a file: all of it, or what the filters select"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="replaced completely, or not at all")
        parser.add_argument("--format", choices=list(FORMS), help="default: by the file's name")
        parser.add_argument("--json", action="store_true", help="print what was done as JSON")
        for name, text in _HELP.items():
            parser.add_argument(f"--{name}", default="", help=text)
        parser.add_argument(
            "--unreviewed", action="store_const", const="yes", default="", help="not reviewed yet"
        )

    def run(self, command: TerminalCommand, **options: Any) -> int:
        path: Path = options["file"]
        form = options["format"] or (CSV if path.suffix.lower() == ".csv" else JSONL)
        filters = read_filters({name: options[name] for name in NAMES})
        if not path.parent.is_dir():
            raise BadRequest(f"There is no directory {path.parent}.")
        try:
            entries = write(begin(form, filters, actor()), path)
        except OSError as exc:
            command.stderr.write(f"The file cannot be written: {exc}")
            return NOT_WRITTEN
        if options["json"]:
            command.say_json({"entries": entries, "file": str(path), "format": form})
        else:
            command.say(f"{entries:,} entries written to {path}.")
        return WRITTEN
