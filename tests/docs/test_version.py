"""The version that the trail names is the one that is packaged."""

from __future__ import annotations

import tomllib

from switcher import __version__
from tests.server.process import ROOT


def test_there_is_one_version() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == told
