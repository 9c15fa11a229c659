"""docs/settings.md names each setting that is read from the environment, and no other."""

from __future__ import annotations

import re

from project.environment import variables
from tests.server.process import ROOT

READ = re.compile(r"environ(?:\.get\(|\[)\s*[\"'](?:SWITCHER|OLLAMA)_")


def test_the_list_of_settings_is_complete() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    assert rows == variables()


def test_the_environment_is_read_in_one_place() -> None:
    files = [p for d in ("project", "switcher") for p in sorted((ROOT / d).rglob("*.py"))]
    assert [p.name for p in files if READ.search(p.read_text())] == []
