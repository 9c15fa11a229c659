from __future__ import annotations

from pathlib import Path

import pytest

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
MAX_LINE_LENGTH = 120


@pytest.mark.parametrize(
    "path", sorted(TEMPLATES.rglob("*.html")), ids=lambda p: str(p.relative_to(TEMPLATES))
)
def test_template_lines_are_short(path: Path) -> None:
    """The formatter leaves lines alone that it cannot break."""
    lines = path.read_text().splitlines()
    assert [line for line in lines if len(line) > MAX_LINE_LENGTH] == []
