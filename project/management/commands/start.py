"""`start`: run by `script/server`; creates what the first start needs, then serves."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    help = "Start for real use: create what the first start needs, then serve."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
        parser.add_argument("--port", default=8000, type=int, help="port to listen on; 0: any")

    def handle(self, *args: Any, **options: Any) -> None:
        from project.first_start import ADMIN, ensure_admin, ensure_host

        call_command("migrate", verbosity=0, interactive=False)
        password = ensure_admin()
        if password:
            self.stdout.write(f"The first admin is {ADMIN}, with the one-time password {password}")
            self.stdout.write("It is not shown again. Change it in the Django admin.")
        address = ensure_host()
        if address:
            self.stdout.write(f"Added the host 'ollama' at {address}.")
        call_command("serve", host=options["host"], port=options["port"])
