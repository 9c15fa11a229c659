"""The command line, from a checkout (`manage.py`) and from a wheel (`switchboard`)."""

from __future__ import annotations

import os
import sys

from switcher import __version__


def main() -> None:
    """Run one command, such as `serve`, `switch` or `status`. A wrong setting, or a database that
    cannot be used, ends it with one sentence."""
    if "--version" in sys.argv[1:] or sys.argv[1:] == ["version"]:
        print(f"Switchboard {__version__}")  # Django would print its own
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import DatabaseError

    from switcher.queries.database import outage_of

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        sys.exit(f"Not started: {exc}")
    except DatabaseError as exc:
        reason = outage_of(exc)
        if not reason:
            raise
        sys.exit(f"Nothing was done, as the database cannot be used: {reason}.")
