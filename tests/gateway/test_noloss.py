"""The proof in small: requests through real switches, by the bench's own functions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.process import ROOT, environment


@pytest.mark.timeout(90)
def test_no_request_is_lost_cut_or_answered_by_the_wrong_model(tmp_path: Path) -> None:
    """Six switches by turns in both strategies, the fifth of which is rolled back; clients of both
    kinds, half of them streaming, at the server and at a gateway process of its own, which is
    paused in two of the switches."""
    words = ("--requests", "300", "--switches", "6", "--clients", "8", "--gateways", "1")
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/noloss.py"), *words, "--pause", "0.05"],
        cwd=tmp_path,
        env=environment(tmp_path),
        text=True,
        capture_output=True,
        timeout=80,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["failed"], told["cut"], told["wrong_model"]) == (0, 0, 0), done.stdout
    assert told["loaded_again"] == 0, "a late request had an old model loaded again"
    assert (told["switches"], told["rolled_back"]) == (6, 1)
    assert told["requests"] >= 300
    assert told["streamed"] >= 100
    # Each strategy was really met: some request fell into one of its switches.
    assert told["overlap_added_ms_p50"] is not None
    assert told["swap_added_ms_p50"] is not None
