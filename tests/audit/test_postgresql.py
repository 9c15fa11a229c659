"""Finding, proving and exporting once more, on a PostgreSQL of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.on_postgresql import run_again, runs_already

ROOM = (
    *(f"tests/audit/test_{n}.py" for n in ("finding", "proofs", "pages", "export", "reviews")),
    "tests/audit/test_retention_pages.py::test_a_reason_is_plain_text",
    *(f"tests/records/test_{n}.py" for n in ("people", "logins", "readings")),
)


@runs_already
@pytest.mark.timeout(300)
def test_the_trail_is_the_same_on_postgresql(tmp_path: Path) -> None:
    # Not those on an event loop: the threads of a test's loop keep connections open, which end
    # with it, and of which PostgreSQL's driver then warns.
    run_again(tmp_path, *ROOM, "-n", "2", "-m", "not asyncio", seconds=280)
