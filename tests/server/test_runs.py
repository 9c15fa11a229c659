"""Real processes record their start and stop; a kill is recorded by the next start."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from switcher import __version__
from tests.server.process import ROOT, Process, environment
from tests.until import PATIENCE_S, until


def recorded(data: Path) -> list[str]:
    """Return the kinds of the server's entries, in order."""
    with closing(sqlite3.connect(data / "switchboard.sqlite3")) as database:
        rows = database.execute("SELECT body FROM switcher_ledgerrow ORDER BY seq").fetchall()
    bodies = [json.loads(body) for (body,) in rows]
    ours = [body for body in bodies if body["kind"].startswith("server.")]
    assert {body["facts"]["version"] for body in ours} <= {__version__}
    return [f"{body['kind']} {body['facts']['role']}" for body in ours]


def test_start_stop_and_a_kill_are_recorded(data: Path) -> None:
    with Process(data) as server:
        until(lambda: recorded(data))
        assert server.end() == 0
    assert recorded(data) == ["server.started server", "server.stopped server"]
    with Process(data) as server:
        until(lambda: len(recorded(data)) == 3)
        server.popen.kill()
        server.popen.wait(PATIENCE_S)
    with Process(data) as server:
        until(lambda: len(recorded(data)) == 5)
        server.end()
    assert recorded(data)[2:] == [
        "server.started server",
        "server.lost server",
        "server.started server",
        "server.stopped server",
    ]


def test_the_stop_is_signed_before_the_process_ends(data: Path) -> None:
    with Process(data) as server:
        until(lambda: recorded(data))
        server.end()
    with closing(sqlite3.connect(data / "switchboard.sqlite3")) as database:
        (signed,) = database.execute("SELECT max(size) FROM switcher_checkpoint").fetchone()
        (newest,) = database.execute("SELECT max(seq) FROM switcher_ledgerrow").fetchone()
    assert recorded(data)[-1] == "server.stopped server"
    assert signed == newest


def test_each_gateway_process_records_its_own_start_and_stop(data: Path) -> None:
    gateway = subprocess.Popen(
        [sys.executable, "manage.py", "gateway", "--port", "0", "--workers", "2"],
        env=environment(data),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: len(recorded(data)) == 2)
        gateway.terminate()
        gateway.wait(PATIENCE_S)
    finally:
        gateway.kill()
        gateway.wait(PATIENCE_S)
    assert sorted(recorded(data)) == ["server.started gateway"] * 2 + ["server.stopped gateway"] * 2
