"""`demo`: run by `script/demo`."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    help = "Serve the whole product with two simulated hosts, on 127.0.0.1."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", default=8000, type=int, help="port of the pages")

    def handle(self, *args: Any, **options: Any) -> None:
        from project import demo
        from switcher.models import SwitchEvent

        # The gateway has no keys yet: let it serve everyone on this machine. The demo is not meant
        # to be put behind a proxy.
        settings.SWITCHER_OPEN_GATEWAY = True
        call_command("migrate", verbosity=0, interactive=False)
        simulators = demo.start_simulators(options["port"] + 1)
        for host, address in simulators:
            self._say(f"Simulated host {host.name} at {address}")
        demo.set_up(simulators)
        if SwitchEvent.objects.exists():
            demo.reload_active(self._say)
        else:
            self._say("Creating a short history with real switches (about 10 s, only this once):")
            demo.make_history(self._say)
        for name, password in demo.people().items():
            self._say(f"Sign in as {name} with the password {password}")
        call_command("serve", host="127.0.0.1", port=options["port"])

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
