"""`runserver`: daphne's, for development, with our server and its background work."""

from __future__ import annotations

from functools import partial

from daphne.management.commands.runserver import Command as DaphneCommand

from project.background import assemble
from project.server import Server


class Command(DaphneCommand):
    server_cls = partial(Server, parts=assemble)
