"""`axes_reset`: a former name of `unlock`."""

from __future__ import annotations

from django.core.management.base import CommandParser

from switcher.management.commands import unlock


class Command(unlock.Command):
    help = "End all lockouts."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add no arguments: the old command took none."""
