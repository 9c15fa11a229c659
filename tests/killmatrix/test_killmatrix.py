"""A part of the matrix, small enough for every run; script/killmatrix plays all of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from switcher.domain.states import OPEN, PHASES, WORDS, State, Strategy
from tests.killmatrix.cells import CELLS
from tests.killmatrix.engines import Missing, find_postgres
from tests.killmatrix.matrix import play_all
from tests.killmatrix.table import BEGIN, DOCUMENT, END

# All cells of one engine at the same time: each mostly waits for the lease of the dead.
HERE = {
    "sqlite": (
        "loading-swap",
        "warming-overlap",
        "activating-overlap",
        "restoring-swap",
        "loading-swap-clock-back",
    ),
    "postgresql": ("unloading-swap", "activating-overlap"),
}


@pytest.mark.killmatrix
@pytest.mark.parametrize("engine", HERE)
def test_after_a_kill_the_next_start_makes_the_record_true(engine: str, tmp_path: Path) -> None:
    if engine == "postgresql":
        needs_postgres()
    cells = [c for c in CELLS if c.name in HERE[engine]]
    results = play_all(cells, [engine], tmp_path, jobs=len(cells))
    assert {r.cell.name: r.problems for r in results} == {c.name: () for c in cells}


def needs_postgres() -> None:
    try:
        find_postgres()
    except Missing as exc:
        if os.environ.get("SWITCHER_NO_SKIPS"):
            pytest.fail(f"{exc}, and here no test may be skipped.")
        pytest.skip(str(exc))


def test_every_state_of_every_strategy_is_a_cell() -> None:
    around = {State.QUEUED, State.RESTORING}
    for strategy in (Strategy.OVERLAP, Strategy.SWAP):
        assert {c.state for c in CELLS if c.strategy is strategy} == around | set(PHASES[strategy])
    assert {c.state for c in CELLS} == OPEN


def test_the_table_in_the_docs_has_every_cell_and_none_that_failed() -> None:
    text = DOCUMENT.read_text()
    rows = text[text.index(BEGIN) : text.index(END)].splitlines()[3:]
    told = [tuple(part.strip() for part in row.split("|")[1:4]) for row in rows]
    assert told == [(WORDS[c.state], c.strategy.value, c.how) for c in CELLS]
    assert "SQLite, s | PostgreSQL, s" in text
    assert not [row for row in rows if "**" in row]
