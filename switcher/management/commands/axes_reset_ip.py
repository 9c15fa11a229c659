"""`axes_reset_ip`: a former name of `unlock --address`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from switcher.management.commands import unlock


class Command(unlock.Command):
    help = "End the lockouts of these addresses."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("address", nargs="+")

    def run(self, **options: Any) -> int:
        return self.unlock(*((None, address) for address in options["address"]))
