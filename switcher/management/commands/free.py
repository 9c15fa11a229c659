"""`free`: unload a ghost, a resident model that its own name no longer reaches."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from switcher.management.terminal import ACTIVE, TerminalCommand, actor
from switcher.switching import service


class Command(TerminalCommand):
    help = (
        "Unload a ghost: a resident model that its own name no longer reaches, or that is "
        "overdue. Exit codes: 0 it is gone, 1 wrong usage, 4 failed, 5 refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("digest", metavar="ID", help="as `status` shows it")
        parser.add_argument("--host", default="", help="name of a host; else the default host")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, **options: Any) -> int:
        freed = service.free_ghost(options["host"], options["digest"], actor())
        if options["json"]:
            self.say_json({"success": True} | asdict(freed))
        else:
            self.say(freed.text)
        return ACTIVE
