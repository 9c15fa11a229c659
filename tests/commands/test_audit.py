"""`manage.py audit`: verdicts and exit codes, key rotation, rebuilding the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError

from switcher.audit import checkpoints
from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.audit.signing_keys import KeyFiles
from switcher.management.commands import audit as command
from switcher.management.commands.audit import Bar
from switcher.models import AuditEntry, LedgerRow
from tests import make
from tests.server.process import python

pytestmark = pytest.mark.django_db


@pytest.fixture
def signed(proofs: KeyFiles) -> KeyFiles:
    make.host()
    checkpoints.sign()
    return proofs


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and the output."""
    code = 0
    try:
        call_command("audit", *words)
    except SystemExit as exc:
        code = int(str(exc.code))
    return code, capsys.readouterr().out


def test_a_good_trail_is_0(signed: KeyFiles, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run(capsys, "verify", "--index")
    assert code == 0
    assert output.splitlines() == [
        "2 entries (entries 1 to 2), 1 checkpoints",
        "  intact    yes",
        "  anchored  yes",
        "  complete  yes",
        "The index matches the entries.",
    ]


def test_a_broken_trail_is_1_and_says_where(
    signed: KeyFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    drop_triggers()
    LedgerRow.objects.filter(seq=2).update(body="{}")
    make_triggers()
    code, output = run(capsys, "verify")
    assert code == 1
    assert "  intact    NO" in output
    assert "First bad entry: 2" in output
    code, output = run(capsys, "verify", "--json")
    told = json.loads(output)
    assert (code, told["ok"], told["bad_seq"], told["anchored"]) == (1, False, 2, True)


def test_an_edited_index_is_1_and_can_be_rebuilt(
    signed: KeyFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    AuditEntry.objects.filter(seq=1).update(actor="mallory")
    assert run(capsys, "verify")[0] == 0
    code, output = run(capsys, "verify", "--index")
    assert (code, "the first: 1" in output) == (1, True)
    assert run(capsys, "rebuild-index") == (0, "1 rows made or changed, 0 removed.\n")
    assert run(capsys, "verify", "--index")[0] == 0


def test_an_unreadable_trail_is_2(
    signed: KeyFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> None:
        raise DatabaseError("no such table")

    monkeypatch.setattr(command, "verify", breaks)
    assert run(capsys, "verify") == (2, "")


def test_unreadable_anchors_are_2_and_a_sentence(
    signed: KeyFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors = signed.private.with_name("anchors.txt")
    anchors.unlink(missing_ok=True)
    anchors.mkdir()  # a folder is no file of anchors
    with pytest.raises(SystemExit) as ended:
        call_command("audit", "verify")
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("The trail cannot be read: ")
    assert len(output.err.splitlines()) == 1


def test_a_missing_database_is_2(tmp_path: Path) -> None:
    done = python("manage.py", "audit", "verify", data=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be read" in done.stderr


def test_a_key_is_rotated(signed: KeyFiles, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run(capsys, "rotate-key")
    assert code == 0
    assert output.splitlines()[-1] == str(signed.public_keys()[-1])
    assert len(signed.public_keys()) == 2
    assert run(capsys, "verify")[0] == 0


def test_a_key_that_others_can_read_is_not_rotated(
    signed: KeyFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    signed.private.chmod(0o644)
    assert run(capsys, "rotate-key")[0] == 4
    assert len(signed.public_keys()) == 1


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_on_a_terminal_a_bar_shows_the_progress() -> None:
    terminal = Terminal()
    bar = Bar(terminal)  # type: ignore[arg-type]
    bar(250_000, 1_000_000)
    assert terminal.text == "\r[##########..............................] 250,000 of 1,000,000"
    bar(250_001, 1_000_000)  # so soon after that it is not drawn again
    bar.clear()
    assert terminal.text.endswith("1,000,000\r\033[K")
