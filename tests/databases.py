"""Run a test on SQLite and again on PostgreSQL: `@pytest.mark.both_databases`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asgiref.local import Local
from django.core.management import call_command
from django.db import connections

from tests.killmatrix.engines import Missing, PostgreSQL


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Run a marked test on both databases, or on those that the mark names in `on`. Coroutines stay
    on SQLite: the threads of a test's event loop leave connections open, and PostgreSQL's driver
    warns about that.
    """
    mark = metafunc.definition.get_closest_marker("both_databases")
    if mark is None:
        return
    names = mark.kwargs.get("on", ["sqlite", "postgresql"])
    if inspect.iscoroutinefunction(metafunc.function):
        names = ["sqlite"]
    metafunc.fixturenames.insert(0, "database")
    metafunc.parametrize("database", names, indirect=True)


@contextmanager
def postgresql(work: Path) -> Iterator[str]:
    """Start a PostgreSQL server, and yield the URL of a migrated database on it. Skip the test if
    PostgreSQL is missing, unless no test may be skipped.
    """
    try:
        engine = PostgreSQL(work / "work", "a demo password")
    except Missing as exc:
        if os.environ.get("SWITCHER_NO_SKIPS"):
            pytest.fail(f"{exc}, and no test may be skipped here.")
        pytest.skip(str(exc))
    with engine:
        url = engine.new_empty("suite")
        with using(url):
            call_command("migrate", verbosity=0, run_syncdb=True)  # as for the test database
        yield url


@contextmanager
def using(url: str) -> Iterator[None]:
    """Make Django's default connection use this database during the block, even in threads that
    have a connection to the other one.
    """
    from project.environment import postgres

    settings = connections.configure_settings({"default": postgres(url)})["default"]
    before, opened = connections.settings["default"], connections._connections  # type: ignore[attr-defined]
    connections.settings["default"] = settings
    connections._connections = Local(thread_critical=True)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        connections["default"].close()
        connections.settings["default"] = before
        connections._connections = opened  # type: ignore[attr-defined]
