"""What `manage.py audit` can do: one module an action, listed in the command."""

from __future__ import annotations

from typing import Any, Protocol

from django.core.management.base import CommandParser

from switcher.management.terminal import TerminalCommand


class Action(Protocol):
    """One word after `audit`."""

    name: str
    help: str

    def add_arguments(self, parser: CommandParser) -> None: ...

    def run(self, command: TerminalCommand, **options: Any) -> int:
        """Do it, say it by the command, give the exit code."""
        ...
