"""The command line, from a checkout (`manage.py`) and from a wheel (`switchboard`)."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run one command, such as `serve`, `switch` or `status`. A wrong setting ends it with one
    sentence."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        sys.exit(f"Not started: {exc}")
