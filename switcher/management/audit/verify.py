"""`audit verify`: three verdicts over the database."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from django.core.management.base import CommandParser
from django.db import DatabaseError

from switcher.audit.verification import Verified, verify
from switcher.audit.verifier.switchboard_verify import describe
from switcher.management.terminal import TerminalCommand

HOLDS, DOES_NOT, UNREADABLE = 0, 1, 2


class Verify:
    name = "verify"
    help = "verify the trail: intact, anchored, complete; exit code 0 yes, 1 no, 2 not readable"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="the verdicts as JSON")
        parser.add_argument(
            "--index", action="store_true", help="compare the columns to search by, too"
        )

    def run(self, command: TerminalCommand, **options: Any) -> int:
        bar = Bar(sys.stderr)
        try:
            verified = verify(bar, options["index"])
        except (DatabaseError, OSError) as exc:
            bar.clear()
            command.stderr.write(f"The trail cannot be read: {exc}")
            return UNREADABLE
        except Exception as exc:
            # Rows, files and anchors hold what somebody put there; 1 would be a verdict.
            bar.clear()
            why = f"{type(exc).__name__}: {exc}"
            command.stderr.write(f"The trail cannot be read: it holds what it cannot hold ({why}).")
            return UNREADABLE
        bar.clear()
        if options["json"]:
            command.say_json(verified.to_json())
        else:
            command.say(text_of(verified))
        return HOLDS if verified.ok else DOES_NOT


def text_of(verified: Verified) -> str:
    """The verdicts for people."""
    lines = [describe(verified.report)]
    if verified.index_differs == 0:
        lines.append("The index tells what the entries tell.")
    elif verified.index_differs:
        first = ", ".join(f"{seq:,}" for seq in verified.index_first)
        lines.append(
            f"The index, or a mark of review, differs from {verified.index_differs:,} entries "
            f"(the first: {first}). "
            "Run: manage.py audit rebuild-index"
        )
    return "\n".join(lines)


class Bar:
    """A progress bar on a terminal; elsewhere nothing."""

    WIDTH = 40

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_at = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._stream.isatty() or now - self._shown_at < 0.1:
            return
        self._shown_at = now
        full = min(self.WIDTH, self.WIDTH * done // max(total, 1))
        bar = "#" * full + "." * (self.WIDTH - full)
        self._stream.write(f"\r[{bar}] {done:,} of {total:,}")
        self._stream.flush()

    def clear(self) -> None:
        """Take it away: what comes next stands on an empty line."""
        if self._shown_at:
            self._stream.write("\r\033[K")
            self._stream.flush()
