"""Exports: what leaves proves itself to the verifier's own file, and says so where it cannot."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import AsyncClient, Client
from django.urls import reverse

from switcher.audit import checkpoints, export
from switcher.audit.archiving import archive
from switcher.audit.export import CSV, HEAD, JSONL, begin, safe_cell, stream, write
from switcher.audit.filters import Filters
from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.audit.paths import archive_folder
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verifier import switchboard_verify
from switcher.domain.errors import Conflict
from switcher.models import AuditEntry, Checkpoint, LedgerRow
from switcher.records import Actor
from tests import make
from tests.audit.conftest import ANNA, lines_of, tell, tell_many
from tests.until import PATIENCE_S

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_databases]

ARNO = Actor("arno", "page")
HOLDS, DOES_NOT, SELECTION = 0, 1, 3


def verify(path: Path, keys: KeyFiles, *more: str) -> tuple[int, dict[str, Any]]:
    """As on the auditor's own machine: the one file, and nothing of ours to import."""
    done = subprocess.run(
        [
            *(sys.executable, "-I", switchboard_verify.__file__, str(path)),
            *("--key", str(keys.public), "--json", *more),
        ],
        cwd=path.parent,
        env={},
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode in {HOLDS, DOES_NOT, SELECTION}, done.stderr
    return done.returncode, json.loads(done.stdout)


def exported(path: Path, form: str = JSONL, **filters: Any) -> Path:
    write(begin(form, Filters(**filters), ARNO), path)
    return path


@pytest.fixture
def trail(proofs: KeyFiles) -> KeyFiles:
    """Signed more than once, with a change of key in the middle."""
    tell_many(300, host="north-1", reason="first")
    checkpoints.sign()
    tell_many(20, host="south-1")
    checkpoints.rotate_key(ANNA)
    tell_many(300, host="north-1", reason="second")
    return proofs


# -- Everything


def test_an_export_of_everything_verifies_as_a_whole(trail: KeyFiles, tmp_path: Path) -> None:
    code, report = verify(exported(tmp_path / "e.jsonl"), trail)
    assert (code, report["ok"], report["problems"]) == (HOLDS, True, [])
    began = AuditEntry.objects.get(kind="audit.export-began").seq
    # It ends where a checkpoint ends, which is over the entry that tells of this very export.
    assert report["last_seq"] == report["last_checkpoint"] == report["entries"] == began
    assert report["checkpoints"] == Checkpoint.objects.count()


def test_its_first_line_says_what_it_is(trail: KeyFiles, tmp_path: Path) -> None:
    head = lines_of(exported(tmp_path / "e.jsonl"))[0]
    assert head["type"] == "export"
    assert (head["by"], head["filter"], head["selection"]) == ("arno", {}, False)
    assert head["version"] == 1
    assert head["made_at"]


@pytest.mark.parametrize("damage", ["edit", "drop", "swap"])
def test_a_damaged_export_does_not_verify(trail: KeyFiles, tmp_path: Path, damage: str) -> None:
    path = exported(tmp_path / "e.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if '"seq":100,' in line)
    if damage == "edit":
        lines[at] = lines[at].replace("first", "fIrst")
    elif damage == "drop":
        del lines[at]
    else:
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    path.write_text("".join(lines))
    code, report = verify(path, trail)
    assert (code, report["intact"], report["bad_seq"]) == (DOES_NOT, False, 100)


def test_a_change_in_the_database_is_exported_as_it_is_and_seen(
    trail: KeyFiles, tmp_path: Path
) -> None:
    drop_triggers()
    LedgerRow.objects.filter(pk=50).update(body="not even \udcff JSON".encode(errors="replace"))
    make_triggers()
    code, report = verify(exported(tmp_path / "e.jsonl"), trail)
    assert (code, report["bad_seq"]) == (DOES_NOT, 50)


def test_the_rest_verifies_after_older_entries_were_archived(
    trail: KeyFiles, tmp_path: Path
) -> None:
    checkpoints.sign()
    moved = archive(make.AFTER_ALL, ANNA)
    assert moved is not None
    tell_many(30, host="south-1")
    path = exported(tmp_path / "e.jsonl")
    code, report = verify(path, trail)
    assert (code, report["first_seq"]) == (HOLDS, moved.last + 1)
    code, report = verify(exported(tmp_path / "s.jsonl", host="south-1"), trail)
    assert (code, report["problems"], report["entries"]) == (SELECTION, [], 30)


def test_archive_files_and_the_export_after_them_verify_as_one_chain(
    trail: KeyFiles, tmp_path: Path
) -> None:
    checkpoints.sign()
    found = [archive(make.AFTER_ALL, ANNA, max_entries=400), archive(make.AFTER_ALL, ANNA)]
    names = [archive_folder() / moved.file_name for moved in found if moved is not None]
    assert len(names) == 2
    path = exported(tmp_path / "e.jsonl")
    code, report = verify(names[0], trail, str(names[1]), str(path))
    assert (code, report["problems"], report["first_seq"]) == (HOLDS, [], 1)
    assert report["entries"] == report["last_seq"]
    code, report = verify(names[0], trail, str(path))
    assert (code, report["complete"], report["intact"]) == (DOES_NOT, False, True)
    assert "A file begins after entry" in report["problems"][0]
    assert verify(names[0], trail)[0] == HOLDS
    code, report = verify(names[1], trail)  # what tells of the one before it came later
    assert (code, report["intact"], report["anchored"], report["complete"]) == (
        DOES_NOT,
        True,
        True,
        False,
    )


def test_without_a_usable_key_the_evidence_is_exported_as_it_stands(
    trail: KeyFiles, tmp_path: Path
) -> None:
    checkpoints.sign()
    trail.private.chmod(0o644)
    path = exported(tmp_path / "e.jsonl")
    code, report = verify(path, trail)
    assert code == HOLDS
    assert report["last_seq"] == report["last_checkpoint"] + 1


# -- A selection


def test_each_entry_of_a_selection_proves_itself(trail: KeyFiles, tmp_path: Path) -> None:
    path = exported(tmp_path / "s.jsonl", host="north-1", text="second")
    code, report = verify(path, trail)
    assert (code, report["problems"], report["warnings"]) == (SELECTION, [], [])
    assert (report["entries"], report["intact"], report["anchored"]) == (300, True, True)
    assert (report["complete"], report["selection"]) == (False, True)
    said = subprocess.run(
        [sys.executable, "-I", switchboard_verify.__file__, str(path), "--key", str(trail.public)],
        text=True, capture_output=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert "complete  a selection cannot tell" in said.stdout


@pytest.mark.parametrize(
    ("damage", "verdict", "text"),
    [
        ("body", "intact", "was changed"),
        ("proof", "anchored", "is not proved"),
        ("no proof", "anchored", "is not proved"),
        ("short proof", "anchored", "is not proved"),
        ("hash", "anchored", "is not proved"),
        ("order", "intact", "not in order"),
        ("note", "anchored", "none of the known keys"),
        ("second note", "anchored", "not in order"),
        ("no note", "anchored", "There is no checkpoint"),
    ],
)
def test_a_damaged_selection_is_seen(
    trail: KeyFiles, tmp_path: Path, damage: str, verdict: str, text: str
) -> None:
    path = exported(tmp_path / "s.jsonl", host="south-1")
    lines = lines_of(path)
    note = next(n for n, line in enumerate(lines) if line["type"] == "checkpoint")
    entry = lines[note + 5]
    if damage == "body":
        entry["body"] = entry["body"].replace("anna", "emma")
    elif damage == "proof":
        entry["proof"][0] = "00" * 32
    elif damage == "no proof":
        entry["proof"] = None
    elif damage == "short proof":
        entry["proof"].pop()
    elif damage == "hash":
        body = entry["body"].replace("anna", "emma")
        made = switchboard_verify.leaf(bytes.fromhex(entry["prev"]), body)
        entry |= {"body": body, "hash": made.hex()}
    elif damage == "order":
        lines[note + 5], lines[note + 6] = lines[note + 6], lines[note + 5]
    elif damage == "note":
        origin, size, *rest = lines[note]["note"].split("\n")
        lines[note]["note"] = "\n".join([origin, str(int(size) + 1), *rest])
    elif damage == "second note":
        lines.append(lines[note])
    else:
        del lines[note]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, report = verify(path, trail)
    assert (code, report[verdict]) == (DOES_NOT, False)
    assert text in " ".join(report["problems"])


def test_a_checkpoint_removed_from_a_selection_is_seen(trail: KeyFiles, tmp_path: Path) -> None:
    path = exported(tmp_path / "s.jsonl", actor="anna")
    lines = lines_of(path)
    notes = [n for n, line in enumerate(lines) if line["type"] == "checkpoint"]
    assert len(notes) > 2
    del lines[notes[1]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, report = verify(path, trail)
    assert (code, report["anchored"]) == (DOES_NOT, False)
    assert "are not proved" in report["problems"][0]


def test_a_chain_that_calls_itself_a_selection_gains_nothing(
    trail: KeyFiles, tmp_path: Path
) -> None:
    path = exported(tmp_path / "e.jsonl")
    text = path.read_text().replace('"selection":false', '"selection":true')
    path.write_text(text)
    code, report = verify(path, trail)
    assert (code, report["ok"]) == (DOES_NOT, False)


def test_a_selection_is_compared_with_anchors_of_its_size(trail: KeyFiles, tmp_path: Path) -> None:
    path = exported(tmp_path / "s.jsonl", host="south-1")
    note = next(line["note"] for line in lines_of(path) if line["type"] == "checkpoint")
    origin, size, _, *rest = note.split("\n")
    other = "\n".join([origin, size, "A" * 43 + "=", *rest])
    anchors = tmp_path / "anchors.txt"
    anchors.write_text(json.dumps({"note": note}) + "\n")
    assert verify(path, trail, "--anchors", str(anchors))[0] == SELECTION
    anchors.write_text(json.dumps({"note": other}) + "\n")
    code, report = verify(path, trail, "--anchors", str(anchors))
    assert (code, report["anchored"]) == (DOES_NOT, False)


def test_entries_newer_than_the_checkpoint_are_reported_as_unproved(
    trail: KeyFiles, tmp_path: Path
) -> None:
    checkpoints.sign()
    trail.private.chmod(0o644)
    tell(host="south-1")
    code, report = verify(exported(tmp_path / "s.jsonl", host="south-1"), trail)
    assert (code, report["entries"]) == (SELECTION, 21)
    assert "1 entries are newer than the checkpoint" in report["warnings"][0]


@pytest.mark.parametrize("form", [CSV, JSONL])
def test_a_selection_is_cut_off_if_entries_are_archived_meanwhile(
    trail: KeyFiles, tmp_path: Path, form: str
) -> None:
    checkpoints.sign()
    lines = begin(form, Filters(host="north-1"), ANNA).chunks
    next(lines)
    assert archive(make.AFTER_ALL, ANNA) is not None
    with pytest.raises(Conflict, match="Export again"):
        list(lines)
    assert exported(tmp_path / "again", form, host="north-1").is_file()


def test_a_selection_may_be_empty(trail: KeyFiles, tmp_path: Path) -> None:
    code, report = verify(exported(tmp_path / "s.jsonl", host="nowhere"), trail)
    assert (code, report["entries"]) == (SELECTION, 0)


# -- CSV


def rows_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


EVIL = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")', "=1\n=2"]


def test_no_cell_is_a_formula(proofs: KeyFiles, tmp_path: Path) -> None:
    for evil in EVIL:
        tell("host.changed", Actor(evil, evil), host=evil, reason=evil, model=evil)
    content = exported(tmp_path / "e.csv", CSV).read_bytes()
    cells = [cell for row in rows_of(content) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\0"))]
    assert [row[9] for row in rows_of(content)[1 : len(EVIL) + 1]] == [f"'{e}" for e in EVIL]
    assert safe_cell("\0=1") == "'\0=1"
    assert safe_cell("1-1") == "1-1"


def test_csv_says_in_words_what_happened(proofs: KeyFiles, tmp_path: Path) -> None:
    tell("host.removed", host="north-1", reason='because, of "that"\nand more')
    head, first, *_ = rows_of(exported(tmp_path / "e.csv", CSV).read_bytes())
    assert tuple(head) == HEAD
    row = dict(zip(head, first, strict=True))
    assert row["what"] == "Removed north-1 from the board."
    assert (row["seq"], row["actor"], row["source"]) == ("1", "anna", "page")
    assert row["reason"] == 'because, of "that"\nand more'
    assert row["hash"] == bytes(LedgerRow.objects.get(pk=1).hash).hex()


def test_no_address_and_no_browser_of_a_person_is_exported(
    proofs: KeyFiles, tmp_path: Path
) -> None:
    tell(actor=ANNA)
    for form in (CSV, JSONL):
        text = exported(tmp_path / f"e.{form}", form).read_text()
        assert "192.0.2.14" not in text
        assert "Firefox" not in text


# -- Its entries


def facts_of(kind: str) -> list[dict[str, Any]]:
    return [entry.facts for entry in AuditEntry.objects.filter(kind=kind).order_by("seq")]


def test_an_export_is_two_entries_with_its_filter(trail: KeyFiles, tmp_path: Path) -> None:
    exported(tmp_path / "s.jsonl", host="south-1")
    began = AuditEntry.objects.get(kind="audit.export-began")
    assert began.facts == {"filter": {"host": "south-1"}, "format": "jsonl"}
    assert facts_of("audit.exported") == [
        {"began": began.seq, "entries": 20, "filter": {"host": "south-1"}, "format": "jsonl",
         "whole": True}
    ]  # fmt: skip


async def test_a_client_that_leaves_early_is_recorded(trail: KeyFiles) -> None:
    job = await asyncio.to_thread(begin, JSONL, Filters(host="north-1"), ARNO)
    lines = stream(job)
    await anext(lines)
    await anext(lines)
    await lines.aclose()  # type: ignore[attr-defined]
    (report,) = await asyncio.to_thread(facts_of, "audit.exported")
    assert (report["whole"], report["entries"]) == (False, 0)


async def test_a_cancelled_request_is_recorded(trail: KeyFiles) -> None:
    job = await asyncio.to_thread(begin, JSONL, Filters(), ARNO)
    taken = asyncio.Event()

    async def client() -> None:
        async for _ in stream(job):
            taken.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(client())
    await taken.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(500):
        report = await asyncio.to_thread(facts_of, "audit.exported")
        if report:
            break
        await asyncio.sleep(0.01)
    assert [facts["whole"] for facts in report] == [False]


# -- The ways in


async def body_of(response: Any) -> bytes:
    return b"".join([part async for part in response.streaming_content])


async def test_the_page_exports_what_its_filter_selects(
    streaming: AsyncClient, trail: KeyFiles, tmp_path: Path
) -> None:
    form = {"format": "jsonl", "host": "south-1"}
    response = await streaming.post(reverse("audit-download"), form)
    assert response.status_code == 200
    assert response["Content-Disposition"].startswith('attachment; filename="audit-selection-')
    path = tmp_path / "s.jsonl"
    path.write_bytes(await body_of(response))
    code, report = await asyncio.to_thread(verify, path, trail)
    assert (code, report["entries"]) == (SELECTION, 20)


async def test_the_api_exports(streaming: AsyncClient, trail: KeyFiles, tmp_path: Path) -> None:
    response = await streaming.get("/audit/export?format=jsonl")
    assert response["Content-Type"] == "application/x-ndjson"
    path = tmp_path / "e.jsonl"
    path.write_bytes(await body_of(response))
    assert (await asyncio.to_thread(verify, path, trail))[0] == HOLDS
    response = await streaming.get("/audit/export?format=csv&host=south-1&since=2020-01-01")
    assert len(rows_of(await body_of(response))) == 21
    assert await AuditEntry.objects.filter(kind="audit.export-began", actor="arno").acount() == 2


@pytest.mark.parametrize("query", ["format=xml", "since=soon", "outcome=splendid", "hots=north-1"])
async def test_the_api_refuses_unknown_values_and_names(streaming: AsyncClient, query: str) -> None:
    response = await streaming.get(f"/audit/export?{query}")
    assert response.status_code == 422
    assert response["Content-Type"] == "application/problem+json"
    assert await asyncio.to_thread(AuditEntry.objects.count) == 0


def test_only_auditors_and_admins_export(operator: Client, admin: Client, trail: KeyFiles) -> None:
    count = AuditEntry.objects.count()
    assert operator.post(reverse("audit-download"), {"format": "csv"}).status_code == 403
    assert operator.get("/audit/export?format=csv").status_code == 403
    assert Client().get("/audit/export?format=csv").status_code == 401
    assert 'id="export-csv"' not in operator.get("/audit/").content.decode()
    assert AuditEntry.objects.count() == count
    assert 'id="export-csv"' in admin.get("/audit/").content.decode()


def test_a_page_refuses_a_filter_that_cannot_be_read(auditor: Client) -> None:
    response = auditor.post(reverse("audit-download"), {"format": "csv", "since": "soon"})
    assert response.status_code == 422
    assert AuditEntry.objects.count() == 0


def test_the_command_writes_a_file_for_its_owner_alone(
    trail: KeyFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "south.jsonl"
    call_command("audit", "export", str(path), "--host", "south-1", "--until", "2099-01-01")
    assert capsys.readouterr().out == f"20 entries written to {path}.\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify(path, trail)[0] == SELECTION
    call_command("audit", "export", str(tmp_path / "all.csv"), "--json")
    assert json.loads(capsys.readouterr().out)["format"] == "csv"


def test_a_command_that_fails_leaves_the_earlier_file(
    trail: KeyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text("what was there")

    def breaks(row: object) -> str:
        raise OSError("the disk is full")

    monkeypatch.setattr(export, "_entry", breaks)
    with pytest.raises(SystemExit) as ended:
        call_command("audit", "export", str(path))
    assert ended.value.code == 2
    assert path.read_text() == "what was there"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".e")] == []
    assert [facts["whole"] for facts in facts_of("audit.exported")] == [False]


@pytest.mark.parametrize("words", [["--since", "soon"], ["--outcome", "splendid"]])
def test_the_command_refuses_unreadable_filters(
    trail: KeyFiles, tmp_path: Path, words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("audit", "export", str(tmp_path / "x.csv"), *words)
    assert ended.value.code == 1
    assert not (tmp_path / "x.csv").exists()
