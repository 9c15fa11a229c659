"""The same races on PostgreSQL, where many connections really write at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.killmatrix.engines import Missing, PostgreSQL, find_postgres
from tests.server.process import ROOT

INSIDE = "SWITCHER_DATABASE_URL"


@pytest.mark.skipif(INSIDE in os.environ, reason="they run on it already")
@pytest.mark.timeout(400)
@pytest.mark.killmatrix
def test_the_same_races_end_well_on_postgresql(tmp_path: Path) -> None:
    try:
        find_postgres()
    except Missing as exc:
        if os.environ.get("SWITCHER_NO_SKIPS"):
            pytest.fail(f"{exc}, and here no test may be skipped.")
        pytest.skip(str(exc))
    with PostgreSQL(tmp_path, "not used") as engine:
        database = engine.new("races")
        database.close()
        here = Path(__file__)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"),
                *(str(here.parent), f"--ignore={here}", "--ignore-glob=*shutdown*"),
            ],
            cwd=ROOT,
            env={**database.env, "HOME": str(tmp_path)},
            text=True,
            capture_output=True,
            timeout=380,
        )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
