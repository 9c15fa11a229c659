"""`unload`: unload the active model of a host, without a replacement."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from switcher.management.terminal import ACTIVE, TerminalCommand, actor
from switcher.switching import service


class Command(TerminalCommand):
    help = (
        "Unload the active model of a host on purpose. Nothing replaces it, and no repair brings "
        "it back. Exit codes: 0 no model is active, 1 wrong usage, 4 failed, 5 refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("host", nargs="?", default="", help="else the default host")
        parser.add_argument("--reason", default="", help="kept in the audit trail")
        parser.add_argument("--dry-run", action="store_true", help="only show the plan")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, **options: Any) -> int:
        if options["dry_run"]:
            plan, is_gone = service.plan_unload(options["host"]), None
            text = plan.text
        else:
            done = service.unload_active(options["host"], actor(), options["reason"])
            plan, is_gone, text = done.plan, done.is_gone, done.text
        if options["json"]:
            self.say_json({"plan": plan.to_json(), "is_gone": is_gone, "text": text})
        else:
            self.say(text)
        return ACTIVE
