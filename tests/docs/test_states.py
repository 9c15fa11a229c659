from __future__ import annotations

from pathlib import Path

from switcher.management.commands.statediagram import document

ROOT = Path(__file__).parents[2]


def test_the_state_diagram_in_docs_is_the_one_of_the_transition_table() -> None:
    kept = (ROOT / "docs" / "states.md").read_text()
    assert kept == document(), "run: manage.py statediagram > docs/states.md"
