"""`audit verify`: three verdicts over the database."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from django.core.management.base import CommandParser
from django.db import DatabaseError

from switcher.audit.alarms import describe_error
from switcher.audit.verification import Verified, verify
from switcher.audit.verifier.switchboard_verify import describe
from switcher.domain.errors import TrailUnreadable
from switcher.management.terminal import TerminalCommand

HOLDS, DOES_NOT_HOLD, UNREADABLE = 0, 1, 2


class Verify:
    name = "verify"
    help = "verify the trail: intact, anchored, complete; exit code 0 yes, 1 no, 2 not readable"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
        parser.add_argument(
            "--index", action="store_true", help="also compare the columns to search by"
        )

    def run(self, command: TerminalCommand, **options: Any) -> int:
        bar = Bar(sys.stderr)
        try:
            verified = verify(bar, options["index"])
        except TrailUnreadable as exc:
            return _say_unreadable(command, exc.text)
        except (DatabaseError, OSError) as exc:
            return _say_unreadable(command, f"The trail cannot be read: {exc}")
        except Exception as exc:
            # Files and anchors hold what somebody put there. Exit code 1 would be a verdict.
            return _say_unreadable(command, f"The trail cannot be read: {describe_error(exc)}.")
        finally:
            bar.clear()
        if options["json"]:
            command.say_json(verified.to_json())
        else:
            command.say(text_of(verified))
        return HOLDS if verified.ok else DOES_NOT_HOLD


def _say_unreadable(command: TerminalCommand, text: str) -> int:
    command.stderr.write(text)
    return UNREADABLE


def text_of(verified: Verified) -> str:
    """Return the verdicts as text for people."""
    lines = [describe(verified.report)]
    if verified.index_differs == 0:
        lines.append("The index matches the entries.")
    elif verified.index_differs:
        first = ", ".join(f"{seq:,}" for seq in verified.index_first)
        lines.append(
            f"The index, or a mark of review, differs from {verified.index_differs:,} entries "
            f"(the first: {first}). "
            "Run: manage.py audit rebuild-index"
        )
    return "\n".join(lines)


class Bar:
    """A progress bar on a terminal; elsewhere it prints nothing."""

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
        """Remove the bar, so that the next output begins on an empty line."""
        if self._shown_at:
            self._stream.write("\r\033[K")
            self._stream.flush()
