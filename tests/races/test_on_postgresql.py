"""The same races on PostgreSQL, where many connections really write at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.on_postgresql import run_again, runs_already


@runs_already
@pytest.mark.timeout(400)
@pytest.mark.killmatrix
def test_the_same_races_end_well_on_postgresql(tmp_path: Path) -> None:
    here = Path(__file__)
    room = str(here.parent), f"--ignore={here}", "--ignore-glob=*shutdown*"
    run_again(tmp_path, *room, "-n", "2", seconds=380)
