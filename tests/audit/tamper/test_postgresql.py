"""The same matrix once more, on a PostgreSQL of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.on_postgresql import run_again, runs_already

MATRIX = (
    *(
        f"tests/audit/tamper/test_{name}.py"
        for name in ("matrix", "cells", "triggers", "archive_files")
    ),
    "tests/audit/archive/test_archiving.py",
    "tests/audit/test_erasure.py",
)


@runs_already
@pytest.mark.timeout(300)
def test_the_matrix_is_the_same_on_postgresql(tmp_path: Path) -> None:
    run_again(tmp_path, *MATRIX, seconds=280)
