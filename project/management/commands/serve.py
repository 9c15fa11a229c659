"""`serve`: the whole product in one process."""

from __future__ import annotations

from functools import partial
from typing import Any

from daphne.endpoints import build_endpoint_description_strings
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor

# Time for remaining threads after the server has stopped.
EXIT_TIMEOUT_S = 1.0
# Connections that wait to be accepted. With Twisted's 50, a burst of clients loses some, which try
# again only after a second.
BACKLOG = 1024


class Command(BaseCommand):
    help = "Serve the pages, the API and the gateway, with the worker and the watcher."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
        parser.add_argument("--port", default=8000, type=int, help="port to listen on; 0: any")
        parser.add_argument(
            "--migrate", action="store_true", help="bring the database up to date first"
        )
        parser.add_argument(
            "--no-worker",
            action="store_true",
            help="run no switches in this process; another one must",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["migrate"]:
            call_command("migrate", verbosity=0, interactive=False)
        check_migrated()
        # Imported late, as it loads the whole application.
        from project.asgi import application, end_gateway
        from project.background import assemble
        from project.server import Server, exit_within
        from switcher.audit.signer import sign_the_rest

        host, port = options["host"], options["port"]
        server = Server(
            application=application,
            endpoints=[
                f"{endpoint}:backlog={BACKLOG}"
                for endpoint in build_endpoint_description_strings(host=host, port=port)
            ],
            parts=partial(assemble, worker=not options["no_worker"]),
            announce=self._announce,
            at_end=end_gateway,
            root_path=settings.FORCE_SCRIPT_NAME or "",
        )
        server.run()
        if server.failure:
            raise CommandError(f"Cannot listen on {host} port {port}: {server.failure}")
        sign_the_rest()  # the last entry may be that of an export that was cut off
        exit_within(EXIT_TIMEOUT_S)

    def _announce(self, address: str) -> None:
        self.stdout.write(f"Switchboard listens on {address}")
        self.stdout.flush()


def check_migrated() -> None:
    """Refuse to start on an older database. Raises CommandError."""
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    connections.close_all()
    if missing:
        raise CommandError(
            f"The database lacks {len(missing)} migrations. Run `manage.py migrate`, "
            "or start with `serve --migrate`."
        )
