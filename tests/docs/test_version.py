"""The version that the trail names is the one that is packaged."""

from __future__ import annotations

import tomllib

import pytest

from project.command import main
from switcher import __version__
from tests.server.process import ROOT


def test_there_is_one_version() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == told


@pytest.mark.parametrize("args", [["--version"], ["version"], ["switch", "--version"]])
def test_the_command_prints_our_version_and_not_djangos(
    args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["switchboard", *args])
    main()
    assert capsys.readouterr().out == f"Switchboard {__version__}\n"
