"""A trail that an earlier release wrote, of entries with `"v": 1`, verifies here.

`version-1.tar.gz` is a data directory of that release, with an export that it made: eleven entries,
six of them in an archive file, a rotated key and an erased address. One entry has two keys in an
order that RFC 8785 would reverse.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from switcher.audit.verifier import switchboard_verify
from tests.server.process import ROOT, environment
from tests.until import PATIENCE_S

VERIFIER = Path(switchboard_verify.__file__)
ARCHIVED = "audit-000000000001-000000000006.jsonl"

UPGRADE = """
import json, sys
import django
django.setup()
from django.core.management import call_command
from switcher.audit import checkpoints
from switcher.audit.ledger import SERVER, append, writing
from switcher.audit.verification import verify
from switcher.models import LedgerRow

def verdict():
    found = verify(index=True)
    return [found.ok, found.report.entries, found.report.problems]

call_command("migrate", verbosity=0)
upgraded = verdict()
with writing():
    append("test.unicode", SERVER, **{"\\ufb33": 1, "\\U0001f600": 2})
checkpoints.sign()
appended = verdict()
versions = [json.loads(body)["v"] for body in LedgerRow.objects.values_list("body", flat=True)]
call_command("audit", "export", sys.argv[1], verbosity=0)
print(json.dumps({"upgraded": upgraded, "appended": appended, "versions": versions}))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).with_name("version-1.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def run_verifier(data: Path, export: Path) -> dict[str, object]:
    """Run the verifier as an auditor does: the one file, on its own."""
    files = [data / "audit-segments" / ARCHIVED, export]
    done = subprocess.run(
        [sys.executable, "-I", VERIFIER, *files, "--key", data / "audit-keys.pub", "--json"],
        cwd=data,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


def test_an_export_of_the_earlier_release_verifies(data: Path) -> None:
    report = run_verifier(data, data / "export.jsonl")
    assert (report["ok"], report["entries"]) == (True, 10)


def test_the_trail_verifies_after_the_upgrade_and_after_new_entries(data: Path) -> None:
    export = data / "new-export.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", UPGRADE, export],
        env=environment(data),
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["upgraded"] == [True, 11, []]
    assert found["appended"] == [True, 12, []]
    assert found["versions"] == [1, 1, 1, 1, 1, 2]
    report = run_verifier(data, export)
    assert (report["ok"], report["entries"]) == (True, 13)
