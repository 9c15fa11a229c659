"""`free`: unload a ghost, a resident model that its own name does not reach any more."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from switcher.management.terminal import ACTIVE, TerminalCommand, actor
from switcher.switching import service


class Command(TerminalCommand):
    help = (
        "Unload a ghost: a resident model whose name was pulled again or deleted, or whose time "
        "is over. Exit codes: 0 it is gone, 1 wrong use, 4 failed, 5 refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("digest", metavar="ID", help="as `status` shows it")
        parser.add_argument("--host", default="", help="name of a host; else the default one")
        parser.add_argument("--json", action="store_true", help="as JSON")

    def run(self, **options: Any) -> int:
        freed = service.free_ghost(options["host"], options["digest"], actor())
        if options["json"]:
            facts = {"host": freed.host, "model": freed.model, "digest": freed.digest}
            self.say_json({"success": True, **facts, "bytes": freed.bytes})
        else:
            self.say(freed.text)
        return ACTIVE
