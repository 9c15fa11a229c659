"""Tests that run once more, in a process of their own, on a PostgreSQL of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.killmatrix.engines import Missing, PostgreSQL
from tests.server.process import ROOT

runs_already = pytest.mark.skipif(
    "SWITCHER_DATABASE_URL" in os.environ, reason="they run on it already"
)


def run_again(work: Path, *args: str, seconds: int) -> None:
    """Run pytest with these arguments there; what fails is this test's failure. Skips where there
    is no PostgreSQL, unless no test may be skipped."""
    try:
        engine = PostgreSQL(work / "work", "a demo password")
    except Missing as exc:
        if os.environ.get("SWITCHER_NO_SKIPS"):
            pytest.fail(f"{exc}, and here no test may be skipped.")
        pytest.skip(str(exc))
    with engine:
        database = engine.new("tests")
        database.close()
        done = subprocess.run(
            [*(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"), *args],
            env={**database.env, "HOME": str(work)},
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=seconds,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
