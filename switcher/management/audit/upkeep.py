"""`audit rotate-key` and `audit rebuild-index`."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandParser

from switcher.management.audit.verify import Bar
from switcher.management.terminal import TerminalCommand, actor
from switcher.records import checkpoints, index, subtrees
from switcher.textindex import rebuild_words


class RotateKey:
    name = "rotate-key"
    help = "make a new signing key; the old one vouches for it in an entry"

    def add_arguments(self, parser: CommandParser) -> None:
        pass

    def run(self, command: TerminalCommand, **options: Any) -> int:
        public = checkpoints.rotate_key(actor())
        command.say(f"The new key signs from now on:\n{public}")
        return 0


class RebuildIndex:
    name = "rebuild-index"
    help = "make the columns to search by again from the entries"

    def add_arguments(self, parser: CommandParser) -> None:
        pass

    def run(self, command: TerminalCommand, **options: Any) -> int:
        bar = Bar(sys.stderr)
        made, removed = index.rebuild(actor(), bar)
        subtrees.rebuild()
        rebuild_words()
        bar.clear()
        command.say(f"{made:,} rows made or changed, {removed:,} removed.")
        return 0
