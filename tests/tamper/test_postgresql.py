"""The same matrix once more, on a PostgreSQL of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from tests.killmatrix.engines import Missing, PostgreSQL
from tests.server.process import ROOT

MATRIX = (
    "tests/tamper/test_matrix.py",
    "tests/tamper/test_seals.py",
    "tests/tamper/test_segments.py",
    "tests/auditing/test_archiving.py",
    "tests/auditing/test_erasing.py",
)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="this runs on it already")
@pytest.mark.timeout(300)
def test_the_matrix_is_the_same_on_postgresql(tmp_path: Path) -> None:
    try:
        engine = PostgreSQL(tmp_path / "work", "a demo password")
    except Missing as exc:
        if os.environ.get("SWITCHER_NO_SKIPS"):
            raise
        pytest.skip(str(exc))
    with engine:
        database = engine.new("tamper")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *MATRIX, "-q", "-p", "no:cacheprovider"],
                env=database.env,
                cwd=ROOT,
                text=True,
                capture_output=True,
                timeout=240,
            )
        finally:
            database.close()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
