"""The actions of `manage.py audit`."""

from __future__ import annotations

from typing import Any, Protocol

from django.core.management.base import CommandParser

from switcher.management.terminal import TerminalCommand


class Action(Protocol):
    """One action, by the word after `audit`."""

    name: str
    help: str

    def add_arguments(self, parser: CommandParser) -> None: ...

    def run(self, command: TerminalCommand, **options: Any) -> int:
        """Do it, print the result with the command, and return the exit code."""
        ...
