"""bench/noloss.py in small: requests during real switches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.process import ROOT, environment


@pytest.mark.timeout(90)
def test_no_request_is_lost_cut_or_answered_by_the_wrong_model(tmp_path: Path) -> None:
    """Six switches, in both strategies by turns; the fifth is rolled back. Clients of all three
    APIs, half of them streaming, use the server and a separate gateway process, which is paused
    during two of the switches."""
    words = ("--requests", "300", "--switches", "6", "--clients", "8", "--gateways", "1")
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/noloss.py"), *words, "--pause", "0.05"],
        cwd=tmp_path,
        env=environment(tmp_path),
        text=True,
        capture_output=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["failed"], figures["cut"], figures["wrong_model"]) == (0, 0, 0), done.stdout
    assert figures["loaded_again"] == 0, "a late request made the host load an old model again"
    assert (figures["switches"], figures["rolled_back"]) == (6, 1)
    assert figures["requests"] >= 300
    assert figures["streamed"] >= 100
    # Some requests were made during a switch of either strategy.
    assert figures["overlap_added_ms_p50"] is not None
    assert figures["swap_added_ms_p50"] is not None
