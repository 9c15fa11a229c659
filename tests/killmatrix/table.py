"""The results as a table in Markdown, and its place in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence

from switcher.domain.states import WORDS
from tests.killmatrix.cells import Result
from tests.server.process import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- killmatrix: begin -->", "<!-- killmatrix: end -->"


def table(results: Sequence[Result]) -> str:
    """A row for each cell, a column for each engine: the seconds to truth."""
    engines = list(dict.fromkeys(r.engine for r in results))
    cells = list(dict.fromkeys(r.cell for r in results))
    by_place = {(r.cell, r.engine): r for r in results}
    lines = [
        "| killed while | strategy | at that moment | it ends | "
        + " | ".join(f"{e}, s" for e in engines)
        + " |",
        "|---|---|---|---|" + "--:|" * len(engines),
    ]
    for cell in cells:
        figures = [_figure(by_place[cell, engine]) for engine in engines]
        lines.append(
            f"| {WORDS[cell.state]} | {cell.strategy.value} | {cell.how} | "
            f"{WORDS[cell.end].lower()} | {' | '.join(figures)} |"
        )
    return "\n".join(lines)


def _figure(result: Result) -> str:
    return "**failed**" if result.problems else f"{result.seconds:.1f}"


def rewrite(results: Sequence[Result]) -> None:
    """Put the table where the document has its markers."""
    head, rest = DOCUMENT.read_text().split(BEGIN)
    _, tail = rest.split(END)
    DOCUMENT.write_text(f"{head}{BEGIN}\n{table(results)}\n{END}{tail}")
