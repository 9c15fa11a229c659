"""`axes_reset_username`: a former name of `unlock --name`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from switcher.management.commands import unlock


class Command(unlock.Command):
    help = "End the lockouts of these names."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="+")

    def run(self, **options: Any) -> int:
        return self.unlock(*((name, None) for name in options["name"]))
