"""The wheel contains everything it needs, and runs from an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import requests

from tests.server.process import ROOT
from tests.until import PATIENCE_S


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    build = [*(sys.executable, "-m", "build", "--wheel", "--no-isolation"), "--outdir", str(out)]
    done = subprocess.run([*build, str(ROOT)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_it_holds_templates_static_files_migrations_and_the_command(
    wheel: zipfile.ZipFile,
) -> None:
    names = set(wheel.namelist())
    for needed in (
        "switcher/templates/board.html",
        "switcher/static/switchboard.css",
        "switcher/migrations/0001_initial.py",
        "project/settings.py",
    ):
        assert needed in names
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    assert b"switchboard = project.command:main" in wheel.read(entry)
    assert "ollama_simulator/command.py" in names, "the demo starts it"
    folders = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert folders == {"switcher", "project", "ollama_simulator"}, "no test code"


def test_it_runs_from_an_empty_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    wheel.extractall(installed)
    empty.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(installed),
        "PYTHONUNBUFFERED": "1",
        "OLLAMA_HOST": "127.0.0.1:8",
    }
    program = "from project.command import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", program, "start", "--port", "0"],
        cwd=empty,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        lines = [server.stdout.readline()]
        while "listens on" not in lines[-1]:
            lines.append(server.stdout.readline())
            assert lines[-1], f"it ended: {lines}"
        address = re.search(r"http://\S+?(?=/?$)", lines[-1].strip())
        assert address is not None
        assert requests.get(f"{address[0]}/login/", timeout=PATIENCE_S).status_code == 200
        style = requests.get(f"{address[0]}/static/switchboard.css", timeout=PATIENCE_S)
        assert style.status_code == 200
        assert "light-dark(" in style.text
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
        if server.stdout is not None:
            server.stdout.close()
    assert server.returncode == 0
    assert [p.name for p in empty.iterdir()] == ["data"]
