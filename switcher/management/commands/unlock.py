"""`unlock`: end lockouts before their time."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from switcher.management.terminal import TerminalCommand, actor
from switcher.records import logins


class Command(TerminalCommand):
    help = "End lockouts: of a name, of an address, of a name at an address, or all of them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", help="user name that was locked out")
        parser.add_argument("--address", help="address that was locked out")

    def run(self, **options: Any) -> int:
        return self.unlock((options.get("name"), options.get("address")))

    def unlock(self, *locked: tuple[str | None, str | None]) -> int:
        """Forget the failures of each name and address."""
        count = sum(logins.unlock(name, address, actor()) for name, address in locked)
        self.say(
            f"{count} counts of failed logins removed." if count else "No failed logins found."
        )
        return 0


class Former(Command):
    """A former command, which takes any number of names or addresses."""

    takes: str

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(self.takes, nargs="+")

    def run(self, **options: Any) -> int:
        given = options[self.takes]
        return self.unlock(*((v, None) if self.takes == "name" else (None, v) for v in given))
