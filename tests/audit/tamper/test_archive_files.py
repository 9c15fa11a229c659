"""The tamper matrix for archive files, and for the rows about them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client

from switcher.access import AUDITORS
from switcher.audit import checkpoints
from switcher.audit.archive_files import newest_archive_file
from switcher.audit.archiving import archive
from switcher.audit.export import JSONL, Export, chunks
from switcher.audit.filters import Filters
from switcher.audit.ledger import append, stamp, writing
from switcher.audit.ledger_reader import newest_seq, stored_rows
from switcher.audit.paths import archive_folder
from switcher.audit.signing_keys import KeyFiles, new_key
from switcher.audit.verification import verify
from switcher.audit.verifier.switchboard_verify import Report, Tree
from switcher.domain.errors import TrailUnreadable
from switcher.models import ArchiveFile, LedgerRow
from tests import make
from tests.audit.conftest import Entry, verify_export
from tests.audit.tamper.attacker import ANNA, Attacker, sign_and_anchor, write
from tests.clocks import FakeClock

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

SEGMENT = "switcher_segment"


@pytest.fixture
def moved(proofs: KeyFiles, clock: FakeClock) -> Attacker:
    """Two archive files, of five and of four entries, and the entries since."""
    for count in (4, 4):
        write(count, clock)
        sign_and_anchor(clock)
    clock.pass_time(7 * 86400)
    for count in (5, 5):
        assert archive(clock.now() - timedelta(days=1), ANNA, clock, max_entries=count) is not None
    write(3, clock)
    sign_and_anchor(clock)
    return Attacker(proofs, clock)


def verdicts(report: Report) -> tuple[bool, bool, bool]:
    return report.intact, report.anchored, report.complete


def rewrite(name: str, change: Callable[[str], str]) -> None:
    path = archive_folder() / name
    text = path.read_text(encoding="utf-8")
    path.chmod(0o600)
    path.write_text(change(text), encoding="utf-8")


def names() -> list[str]:
    return list(ArchiveFile.objects.order_by("first").values_list("name", flat=True))


def test_unchanged_files_verify(moved: Attacker) -> None:
    report = verify(index=True).report
    assert (verdicts(report), report.problems) == ((True, True, True), [])
    assert report.first_seq == 1


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_is_removed(moved: Attacker, which: int) -> None:
    (archive_folder() / names()[which]).unlink()
    report = verify().report
    assert verdicts(report) == (True, True, False)
    assert names()[which] in report.problems[0]
    assert "No such file" in report.problems[0]


def test_both_files_are_removed(moved: Attacker) -> None:
    for name in names():
        (archive_folder() / name).unlink()
    assert verdicts(verify().report) == (True, True, False)


@pytest.mark.parametrize("which", [0, 1])
def test_an_entry_in_a_file_is_edited(moved: Attacker, which: int) -> None:
    rewrite(names()[which], lambda text: text.replace("anna", "mallory", 1))
    report = verify().report
    assert not report.intact


def test_an_entry_is_cut_out_of_a_file(moved: Attacker) -> None:
    rewrite(names()[0], lambda text: "\n".join(text.split("\n")[:3] + text.split("\n")[4:]))
    report = verify().report
    assert not report.intact
    assert report.bad_seq is not None


def test_a_file_is_cut_off(moved: Attacker) -> None:
    rewrite(names()[1], lambda text: "\n".join(text.split("\n")[:3]) + "\n")
    report = verify().report
    assert (report.intact, report.complete) == (False, False)


def test_a_line_that_is_no_entry_is_added_to_a_file(moved: Attacker) -> None:
    rewrite(names()[0], lambda text: text + '{"type":"note"}\n')
    assert verdicts(verify().report) == (False, True, True)


def test_a_file_is_emptied_and_its_row_made_to_fit(moved: Attacker) -> None:
    rewrite(names()[0], lambda text: "")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    moved.sql(f"UPDATE {SEGMENT} SET sha256 = %s WHERE first = 1", empty)
    assert not verify().report.ok


def test_a_row_gets_a_tree_of_the_attackers(moved: Attacker) -> None:
    """If a file is missing, its row says how to continue. That is not believed."""
    (archive_folder() / names()[1]).unlink()
    tree = Tree()
    tree.extend([bytes([n]) * 32 for n in range(ArchiveFile.objects.get(first=6).last)])
    moved.sql(f"UPDATE {SEGMENT} SET tree = %s WHERE first = 6", tree.to_text())
    report = verify().report
    assert (report.anchored, report.complete) == (False, False)


@pytest.mark.parametrize("change", ["prev = 'zz'", "tree = 'nonsense'"])
def test_nothing_is_signed_after_a_row_that_cannot_be_read(moved: Attacker, change: str) -> None:
    """Signing reads again from where the newest full subtree begins: here from entry 1."""
    write(16 - newest_seq(), moved.clock)
    sign_and_anchor(moved.clock)
    moved.sql(f"UPDATE {SEGMENT} SET {change} WHERE first = 6")
    write(1, moved.clock)
    with pytest.raises(TrailUnreadable, match="what the database keeps of audit-"):
        checkpoints.sign(moved.clock)


def test_a_file_is_removed_and_its_row_cannot_be_read(moved: Attacker) -> None:
    (archive_folder() / names()[1]).unlink()
    moved.sql(f"UPDATE {SEGMENT} SET tree = 'nonsense' WHERE first = 6")
    assert not verify().report.ok


def make_up(clock: FakeClock, rows: list[Entry], entry: int) -> tuple[str, list[object]]:
    """Return the SQL for a file with the first five entries, which was never made."""
    tree = Tree()
    tree.extend([row.hash for row in rows[:5]])
    sql = (
        f"INSERT INTO {SEGMENT} (first, last, last_at, name, size, sha256, prev, tree, "
        "rotations, entry, at) VALUES (1, 5, %s, 'audit-old.jsonl', 0, '', %s, %s, '[]', %s, %s)"
    )
    at = stamp(clock.now())
    return sql, [at, rows[4].hash.hex(), tree.to_text(), entry, at]


def exported(clock: FakeClock) -> list[str]:
    """Return the whole trail as an auditor exports it."""
    whole = Export(JSONL, Filters(), newest_archive_file(), newest_seq(), "arno", clock.now())
    return b"".join(chunk.data for chunk in chunks(whole)).decode().splitlines(keepends=True)


def hide(attacker: Attacker, entry: int) -> None:
    sql, values = make_up(attacker.clock, attacker.rows(), entry)
    attacker.sql(sql, *values)
    attacker.delete(1, 2, 3, 4, 5)


def test_entries_are_hidden_by_the_row_of_a_file_that_was_never_made(attacker: Attacker) -> None:
    """The chain and the checkpoints hold, but there is no file and no entry about it."""
    hide(attacker, entry=9)
    report = verify().report
    assert not report.complete
    assert any("No signed entry says that entries 1 to 5" in text for text in report.problems)


def test_the_export_alone_shows_that_entries_were_hidden(attacker: Attacker) -> None:
    """An entry in the export must say where the entries before its first one are."""
    sign_and_anchor(attacker.clock)
    hide(attacker, entry=9)
    report = verify_export(exported(attacker.clock), attacker.files.root())
    assert verdicts(report) == (True, True, False)
    assert report.problems == [
        "No signed entry here says that entries 1 to 5 were archived. Name their files first."
    ]


def test_an_unsigned_entry_about_the_file_is_not_believed(attacker: Attacker) -> None:
    sign_and_anchor(attacker.clock)
    tree = Tree()
    tree.extend([row.hash for row in attacker.rows()[:5]])
    with writing():
        facts = {"first": 1, "last": 5, "root": tree.root().hex(), "sha256": ""}
        append("audit.archived", ANNA, clock=attacker.clock, **facts)
    hide(attacker, entry=13)
    report = verify_export(exported(attacker.clock), attacker.files.root())
    assert verdicts(report) == (True, True, False)


@pytest.mark.parametrize("by", ["nobody", "another key", "the key of before", "the key"])
def test_an_entry_about_the_file_is_believed_only_with_the_signature_of_the_key(
    attacker: Attacker, by: str
) -> None:
    """Somebody who can append can wait until the entry is under a checkpoint."""
    tree = Tree()
    tree.extend([row.hash for row in attacker.rows()[:5]])
    before = attacker.files.load()
    checkpoints.rotate_key(ANNA, attacker.clock)
    key = {"another key": new_key("switchboard"), "the key of before": before}
    signer = key.get(by, attacker.files.load())
    facts = signer.vouch_for_archive(1, 5, "ab" * 32, tree.root().hex()).to_json()
    if by == "nobody":
        del facts["signature"]
    with writing():
        public = str(attacker.files.load().public)
        entry = append("audit.archived", ANNA, clock=attacker.clock, **facts, new=public)
    sign_and_anchor(attacker.clock)
    hide(attacker, entry.seq)
    attacker.sql(f"UPDATE {SEGMENT} SET sha256 = %s", "ab" * 32)
    there, here = verify_export(exported(attacker.clock), attacker.files.root()), verify().report
    assert verdicts(there) == (True, True, by == "the key")
    assert not here.complete  # the file is nowhere
    unsigned = f"Entry {entry.seq} says that entries were archived, without the key's signature."
    assert (unsigned in there.warnings) == (unsigned in here.warnings) == (by != "the key")
    assert ("No signed entry" in str(here.problems)) == (by != "the key")


def test_an_export_after_archive_files_is_complete_because_of_the_entry_about_them(
    moved: Attacker,
) -> None:
    lines = exported(moved.clock)
    report = verify_export(lines, moved.files.root())
    assert (verdicts(report), report.first_seq) == ((True, True, True), 10)
    other = [line.replace('facts\\":{\\"bytes', 'facts\\":{\\"bites') for line in lines]
    assert verdicts(verify_export(other, moved.files.root()))[0] is False


@pytest.mark.parametrize("entry", [7, 9, 12, 99])
def test_the_database_refuses_a_file_without_an_entry_about_it(
    trail: KeyFiles, clock: FakeClock, entry: int
) -> None:
    """Otherwise the row would allow entries to be deleted."""
    rows = [Entry(*row) for some in stored_rows() for row in some]
    sql, values = make_up(clock, rows, entry)
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
    assert not ArchiveFile.objects.exists()


@pytest.mark.parametrize("fact", ["first", "last", "sha256"])
def test_the_database_refuses_a_file_that_differs_from_the_entry_about_it(
    trail: KeyFiles, clock: FakeClock, fact: str
) -> None:
    facts: dict[str, object] = {"first": 1, "last": 5, "sha256": ""} | {fact: 4}
    with writing():
        entry = append("audit.archived", ANNA, clock=clock, **facts)
    rows = [Entry(*row) for some in stored_rows() for row in some]
    sql, values = make_up(clock, rows, entry.seq)
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(sql, values)


@pytest.mark.parametrize(
    "change",
    ["prev = 'zz'", "rotations = '[1]'", "tree = 'x'", "tree = '9:00,11'", "sha256 = ''"],
)
def test_a_damaged_row_is_a_verdict_that_names_the_file(moved: Attacker, change: str) -> None:
    moved.sql(f"UPDATE {SEGMENT} SET {change} WHERE first = 6")
    report = verify(index=True).report
    assert report.ok is False
    assert names()[1] in report.problems[0]


OTHER_TYPES = [
    "tree = x'ff'", "last_at = 'x'", "at = 5", "size = 'x'", "entry = 'x'", "first = 'x'",
    "last = 'x'", "first = 6.5",
]  # fmt: skip


@pytest.mark.parametrize("change", OTHER_TYPES)
@pytest.mark.both_databases(on=["sqlite"])  # PostgreSQL keeps types
def test_a_value_of_another_type_is_refused(moved: Attacker, change: str) -> None:
    check_refused(moved, change)


def test_a_null_of_json_is_refused(moved: Attacker) -> None:
    check_refused(moved, "rotations = 'null'")


def check_refused(moved: Attacker, change: str) -> None:
    moved.sql(f"UPDATE {SEGMENT} SET {change} WHERE first = 6")
    with pytest.raises(TrailUnreadable, match="table switcher_segment"):
        verify()
    client = Client()
    make.sign_in(client, make.user("arno", AUDITORS))
    page = client.get("/audit/verify/")
    assert page.status_code == 500
    assert "The audit trail cannot be read" in page.content.decode()


def test_the_row_of_a_file_is_removed(moved: Attacker) -> None:
    moved.sql(f"DELETE FROM {SEGMENT} WHERE first = 6")
    report = verify().report
    assert not report.ok
    assert report.bad_seq == 6


def test_the_rows_of_all_files_are_removed(moved: Attacker) -> None:
    moved.sql(f"DELETE FROM {SEGMENT}")
    report = verify().report
    assert (report.intact, report.complete) == (False, False)


def test_archived_entries_that_are_put_back_are_not_read(moved: Attacker) -> None:
    """Archived entries are read from their file alone."""
    first = ArchiveFile.objects.order_by("first")[0]
    LedgerRow.objects.create(seq=first.last, body="{}", prev=b"", hash=b"")
    assert verdicts(verify().report) == (True, True, True)
