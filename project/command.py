"""The command line, from a checkout (`manage.py`) and from a wheel (`switchboard`)."""

from __future__ import annotations

import os
import sys

from switcher import __version__


def main() -> None:
    """Run one command, such as `serve`, `switch` or `status`. A wrong setting ends it with one
    sentence."""
    if "--version" in sys.argv[1:] or sys.argv[1:] == ["version"]:
        print(f"Switchboard {__version__}")  # Django would print its own
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        sys.exit(f"Not started: {exc}")
