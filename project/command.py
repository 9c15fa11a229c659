"""The command line, from a checkout (`manage.py`) and from a wheel (`switchboard`)."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run one command, such as `serve`, `switch` or `status`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
