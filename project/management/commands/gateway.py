"""`gateway`: the gateway alone, in one or several processes."""

from __future__ import annotations

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from project.management.commands.serve import check_migrated


class Command(BaseCommand):
    help = "Serve the gateway alone, next to a server that uses the same database."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
        parser.add_argument("--port", default=8080, type=int, help="port to listen on")
        workers = min(4, os.cpu_count() or 1)
        parser.add_argument("--workers", default=workers, type=int, help="processes")

    def handle(self, *args: Any, **options: Any) -> None:
        check_migrated()
        import uvicorn

        address = f"http://{options['host']}:{options['port']}/"
        self.stdout.write(f"The gateway listens on {address} with {options['workers']} processes")
        uvicorn.run(
            "project.gateway:application",
            host=options["host"],
            port=options["port"],
            workers=options["workers"],
            http="project.uvicorn_protocol:BoundedProtocol",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # which proxies are trusted is a setting of ours
            # Longer than clients and proxies keep theirs (nginx 60 s), or one may be closed just as
            # a request is sent on it, which few clients dare to repeat.
            timeout_keep_alive=75,
            # How long a stream has to end when the process stops.
            timeout_graceful_shutdown=10,
        )
