"""`audit rotate-key` and `audit rebuild-index`."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandParser

from switcher.audit import checkpoints, search_index, subtrees
from switcher.audit.text_index import rebuild_words
from switcher.management.audit.verify import Bar
from switcher.management.terminal import TerminalCommand, actor


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
        made, removed = search_index.rebuild(actor(), bar)
        subtrees.rebuild()
        rebuild_words()
        bar.clear()
        command.say(f"{made:,} rows made or changed, {removed:,} removed.")
        return 0
