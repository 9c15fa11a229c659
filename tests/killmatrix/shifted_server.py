"""`manage.py` with its wall clock set ahead, or back with a negative number.

python -m tests.killmatrix.shifted_server SECONDS COMMAND...
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

from django.utils import timezone

from project.command import main
from switcher.domain.clock import SystemClock


def set_clock(ahead: timedelta) -> None:
    """Set the wall clock of this process ahead of the machine's."""

    def now(*_: object) -> datetime:
        return datetime.now(UTC) + ahead

    SystemClock.now = now  # type: ignore[method-assign]
    timezone.now = now


if __name__ == "__main__":
    set_clock(timedelta(seconds=float(sys.argv.pop(1))))
    main()
