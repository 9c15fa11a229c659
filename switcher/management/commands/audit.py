"""`audit`: verify, export and archive the trail, erase personal data, maintain key and index."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from switcher.management.audit import ACTIONS
from switcher.management.terminal import TerminalCommand


class Command(TerminalCommand):
    help = "Verify, export and archive the audit trail, erase personal data, maintain its key."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        for action in ACTIONS:
            action.add_arguments(actions.add_parser(action.name, help=action.help))

    def run_from_argv(self, argv: list[str]) -> None:
        """Exit with argparse's code 2 on wrong usage; 1 means that a verdict does not hold."""
        BaseCommand.run_from_argv(self, argv)

    def run(self, **options: Any) -> int:
        action = next(a for a in ACTIONS if a.name == options["action"])
        return action.run(self, **options)
