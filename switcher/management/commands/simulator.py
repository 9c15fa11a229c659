"""`simulator`: a simulated Ollama server over real HTTP. It needs neither database nor hosts."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ollama_simulator import command


class Command(BaseCommand):
    help = "Serve a simulated Ollama server, to try things out and for tests."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        command.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(command.run(Namespace(**options)))
