"""Plays the cells and prints the table: see script/killmatrix."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.killmatrix.cells import CELLS
from tests.killmatrix.engines import ENGINES, Missing
from tests.killmatrix.matrix import play_all
from tests.killmatrix.table import DOCUMENT, rewrite, table

EPILOG = "The last line is JSON: cells, failed, worst_s."


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/killmatrix", epilog=EPILOG)
    parser.add_argument("--engine", choices=ENGINES, help="this one alone")
    parser.add_argument("--cell", choices=[c.name for c in CELLS], help="this one alone")
    parser.add_argument("--jobs", type=int, default=4, help="cells at the same time (4)")
    parser.add_argument("--keep-docs", action="store_true", help=f"leave {DOCUMENT.name} alone")
    wanted = parser.parse_args()
    cells = [c for c in CELLS if wanted.cell in (None, c.name)]
    engines = [e for e in ENGINES if wanted.engine in (None, e)]
    try:
        with tempfile.TemporaryDirectory(prefix="switchboard-killmatrix-") as work:
            results = play_all(cells, engines, Path(work), wanted.jobs, announce=True)
    except Missing as exc:
        print(exc, file=sys.stderr)
        return 2
    print("\n" + table(results))
    failed = [r for r in results if r.problems]
    for result in failed:
        print(f"\n{result.cell.name} on {result.engine}:")
        print("\n".join(f"  - {p}" for p in result.problems))
    if not failed and (wanted.cell, wanted.engine, wanted.keep_docs) == (None, None, False):
        rewrite(results)
    worst = max(r.seconds for r in results)
    print(json.dumps({"cells": len(results), "failed": len(failed), "worst_s": round(worst, 1)}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
