"""Many cells: each on every engine, several at the same time."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.journeys.product import PASSWORDS
from tests.killmatrix.cells import Cell, Result, play
from tests.killmatrix.engines import ENGINES, PostgreSQL, SQLite


def play_all(
    cells: Sequence[Cell],
    engines: Sequence[str],
    work: Path,
    jobs: int = 4,
    announce: bool = False,
) -> list[Result]:
    """Play the cells on the engines, `jobs` at a time. Raises `Missing` before anything starts."""
    with ExitStack() as stack:
        ready: list[SQLite | PostgreSQL] = [
            ENGINES[name](work, PASSWORDS["admin"]) for name in engines
        ]
        for engine in ready:
            stack.enter_context(engine)
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        pairs = [(cell, engine) for cell in cells for engine in ready]
        return list(pool.map(lambda pair: _play_one(pair[0], pair[1], announce), pairs))


def _play_one(cell: Cell, engine: SQLite | PostgreSQL, announce: bool) -> Result:
    database = engine.new(f"{cell.name}-{secrets.token_hex(3)}")
    try:
        result = play(cell, engine.name, database)
    finally:
        database.close()
    if announce:
        told = "; ".join(result.problems) or f"{result.end} after {result.seconds:.1f} s"
        print(f"{engine.name:10} {cell.name:20} {told}", flush=True)
    return result
