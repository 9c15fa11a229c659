"""docs/settings.md names each setting that the code reads from the environment, and no other."""

from __future__ import annotations

import re

from tests.server.process import ROOT

READ = re.compile(
    r"(?:environ(?:\.get\(|\[)|flag\(|hosts\(|networks\(|number\(|file_or_off\()\s*"
    r'"((?:SWITCHER|OLLAMA)_[A-Z_]+)"'
)


def test_the_list_of_settings_is_true() -> None:
    code = "".join(path.read_text() for path in sorted((ROOT / "project").rglob("*.py")))
    code += "".join(path.read_text() for path in sorted((ROOT / "switcher").rglob("*.py")))
    read = set(READ.findall(code))
    rows = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    assert len(read) > 10
    assert set(rows) == read
    assert len(rows) == len(read)
