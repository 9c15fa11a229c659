"""docs/ollama-versions.md lists what the product knows of older versions, and nothing else."""

from __future__ import annotations

import re

from switcher.domain.versions import FEATURES
from tests.server.process import ROOT

ROW = re.compile(r"^\| ([\d.]+) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def test_the_table_is_the_one_that_the_pages_show() -> None:
    text = (ROOT / "docs/ollama-versions.md").read_text()
    table = text[text.index("without it |") : text.index("These need nothing")]
    assert ROW.findall(table) == [(f.since_text, f.name, f.without) for f in FEATURES]
