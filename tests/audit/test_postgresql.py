"""Finding, proving and exporting once more, on a PostgreSQL of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from tests.killmatrix.engines import Missing, PostgreSQL
from tests.server.process import ROOT

ROOM = [
    *(f"tests/audit/test_{n}.py" for n in ("finding", "proofs", "pages", "export", "reviews")),
    "tests/audit/test_retention_pages.py::test_a_reason_is_plain_text",
    *(f"tests/records/test_{n}.py" for n in ("people", "logins", "readings")),
]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="this runs on it already")
@pytest.mark.timeout(300)
def test_the_trail_is_the_same_on_postgresql(tmp_path: Path) -> None:
    try:
        engine = PostgreSQL(tmp_path / "work", "a demo password")
    except Missing as exc:
        if os.environ.get("SWITCHER_NO_SKIPS"):
            raise
        pytest.skip(str(exc))
    with engine:
        database = engine.new("audit")
        try:
            done = subprocess.run(
                # Not those on an event loop: the threads of a test's loop keep connections open,
                # which end with it, and of which PostgreSQL's driver then warns.
                [
                    *(sys.executable, "-m", "pytest", *ROOM),
                    *("-q", "-n", "2", "-p", "no:cacheprovider", "-m", "not asyncio"),
                ],
                env=database.env,
                cwd=ROOT,
                text=True,
                capture_output=True,
                timeout=280,
            )
        finally:
            database.close()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
