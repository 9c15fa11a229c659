"""The matrix of what is done to segments: sealed files, and the rows that tell of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client

from switcher.access import AUDITORS
from switcher.audit import checkpoints
from switcher.audit.archive_files import newest_segment
from switcher.audit.archiving import archive
from switcher.audit.checkpoints import TrailBroken
from switcher.audit.export import JSONL, Export, chunks
from switcher.audit.filters import Filters
from switcher.audit.ledger import append, stamp, writing
from switcher.audit.ledger_reader import newest_seq, stored_rows
from switcher.audit.paths import segment_folder
from switcher.audit.signing_keys import KeyFiles, new_key
from switcher.audit.verification import verify
from switcher.audit.verifier.switchboard_verify import Report, Tree
from switcher.models import LedgerRow, Segment
from tests import make
from tests.audit.conftest import Entry, verify_export
from tests.audit.tamper.attacker import ANNA, Attacker, sign_and_anchor, write
from tests.clocks import FakeClock

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

SEGMENT = "switcher_segment"


@pytest.fixture
def moved(proofs: KeyFiles, clock: FakeClock) -> Attacker:
    """Two segments, of five and of four entries, and what came since."""
    for count in (4, 4):
        write(count, clock)
        sign_and_anchor(clock)
    clock.pass_time(7 * 86400)
    for most in (5, 5):
        assert archive(clock.now() - timedelta(days=1), ANNA, clock, most=most) is not None
    write(3, clock)
    sign_and_anchor(clock)
    return Attacker(proofs, clock)


def verdicts(report: Report) -> tuple[bool, bool, bool]:
    return report.intact, report.anchored, report.complete


def rewrite(name: str, change: Callable[[str], str]) -> None:
    path = segment_folder() / name
    text = path.read_text(encoding="utf-8")
    path.chmod(0o600)
    path.write_text(change(text), encoding="utf-8")


def names() -> list[str]:
    return list(Segment.objects.order_by("first").values_list("name", flat=True))


def test_what_was_not_touched_verifies(moved: Attacker) -> None:
    report = verify(index=True).report
    assert (verdicts(report), report.problems) == ((True, True, True), [])
    assert report.first_seq == 1


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_is_gone(moved: Attacker, which: int) -> None:
    (segment_folder() / names()[which]).unlink()
    report = verify().report
    assert verdicts(report) == (True, True, False)
    assert names()[which] in report.problems[0]
    assert "No such file" in report.problems[0]


def test_both_files_gone(moved: Attacker) -> None:
    for name in names():
        (segment_folder() / name).unlink()
    assert verdicts(verify().report) == (True, True, False)


@pytest.mark.parametrize("which", [0, 1])
def test_an_entry_in_a_file_edited(moved: Attacker, which: int) -> None:
    rewrite(names()[which], lambda text: text.replace("anna", "mallory", 1))
    report = verify().report
    assert not report.intact


def test_an_entry_cut_out_of_a_file(moved: Attacker) -> None:
    rewrite(names()[0], lambda text: "\n".join(text.split("\n")[:3] + text.split("\n")[4:]))
    report = verify().report
    assert not report.intact
    assert report.bad_seq is not None


def test_a_file_cut_off(moved: Attacker) -> None:
    rewrite(names()[1], lambda text: "\n".join(text.split("\n")[:3]) + "\n")
    report = verify().report
    assert (report.intact, report.complete) == (False, False)


def test_a_file_with_something_added_that_is_no_entry(moved: Attacker) -> None:
    rewrite(names()[0], lambda text: text + '{"type":"note"}\n')
    assert verdicts(verify().report) == (False, True, True)


def test_a_file_emptied_and_its_row_made_to_fit(moved: Attacker) -> None:
    rewrite(names()[0], lambda text: "")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    moved.sql(f"UPDATE {SEGMENT} SET sha256 = %s WHERE first = 1", empty)
    assert not verify().report.ok


def test_a_tree_of_the_attackers_own(moved: Attacker) -> None:
    """Where a file is not there, its row says how to go on. It is not believed."""
    (segment_folder() / names()[1]).unlink()
    tree = Tree()
    tree.extend([bytes([n]) * 32 for n in range(Segment.objects.get(first=6).last)])
    moved.sql(f"UPDATE {SEGMENT} SET tree = %s WHERE first = 6", tree.to_text())
    report = verify().report
    assert (report.anchored, report.complete) == (False, False)


@pytest.mark.parametrize("change", ["prev = 'zz'", "tree = 'nonsense'"])
def test_nothing_is_signed_over_a_row_that_cannot_be_read(moved: Attacker, change: str) -> None:
    """What was signed is read again from where the newest full subtree begins: here, entry 1."""
    write(16 - newest_seq(), moved.clock)
    sign_and_anchor(moved.clock)
    moved.sql(f"UPDATE {SEGMENT} SET {change} WHERE first = 6")
    write(1, moved.clock)
    with pytest.raises(TrailBroken, match="What the database keeps of audit-"):
        checkpoints.sign(moved.clock)


def test_a_row_that_cannot_be_read(moved: Attacker) -> None:
    (segment_folder() / names()[1]).unlink()
    moved.sql(f"UPDATE {SEGMENT} SET tree = 'nonsense' WHERE first = 6")
    assert not verify().report.ok


def make_up(clock: FakeClock, rows: list[Entry], entry: int) -> tuple[str, list[object]]:
    """The SQL of a segment with the first five entries, which nobody made."""
    tree = Tree()
    tree.extend([row.hash for row in rows[:5]])
    sql = (
        f"INSERT INTO {SEGMENT} (first, last, last_at, name, size, sha256, prev, tree, "
        "rotations, entry, at) VALUES (1, 5, %s, 'audit-old.jsonl', 0, '', %s, %s, '[]', %s, %s)"
    )
    at = stamp(clock.now())
    return sql, [at, rows[4].hash.hex(), tree.to_text(), entry, at]


def exported(clock: FakeClock) -> list[str]:
    """All of the trail, as an auditor takes it from the server."""
    whole = Export(JSONL, Filters(), newest_segment(), newest_seq(), "arno", clock.now())
    return b"".join(chunk.data for chunk in chunks(whole)).decode().splitlines(keepends=True)


def hide(attacker: Attacker, entry: int) -> None:
    sql, values = make_up(attacker.clock, attacker.rows(), entry)
    attacker.sql(sql, *values)
    attacker.delete(1, 2, 3, 4, 5)


def test_entries_hidden_by_a_segment_that_nobody_made(attacker: Attacker) -> None:
    """The chain and the checkpoints hold; but the file is nowhere, and no entry tells of it."""
    hide(attacker, entry=9)
    report = verify().report
    assert not report.complete
    assert any("No signed entry says that entries 1 to 5" in text for text in report.problems)


def test_the_verifier_elsewhere_sees_that_entries_were_hidden(attacker: Attacker) -> None:
    """It has the export alone: what it begins behind has to be told by an entry in it."""
    sign_and_anchor(attacker.clock)
    hide(attacker, entry=9)
    report = verify_export(exported(attacker.clock), attacker.files.root())
    assert verdicts(report) == (True, True, False)
    assert report.problems == [
        "No signed entry here says that entries 1 to 5 were archived. Name their files first."
    ]


def test_an_entry_about_it_that_is_not_signed_tells_nothing(attacker: Attacker) -> None:
    sign_and_anchor(attacker.clock)
    tree = Tree()
    tree.extend([row.hash for row in attacker.rows()[:5]])
    with writing():
        told = {"first": 1, "last": 5, "root": tree.root().hex(), "sha256": ""}
        append("audit.archived", ANNA, clock=attacker.clock, **told)
    hide(attacker, entry=13)
    report = verify_export(exported(attacker.clock), attacker.files.root())
    assert verdicts(report) == (True, True, False)


@pytest.mark.parametrize("by", ["nobody", "another key", "the key of before", "the key"])
def test_a_whole_and_signed_entry_about_it_is_believed_only_with_the_keys_own_signature(
    attacker: Attacker, by: str
) -> None:
    """Who may append may wait until what they wrote is under a checkpoint."""
    tree = Tree()
    tree.extend([row.hash for row in attacker.rows()[:5]])
    before = attacker.files.load()
    checkpoints.rotate_key(ANNA, attacker.clock)
    key = {"another key": new_key("switchboard"), "the key of before": before}
    signer = key.get(by, attacker.files.load())
    told = signer.vouch_for_segment(1, 5, "ab" * 32, tree.root().hex()).to_json()
    if by == "nobody":
        del told["signature"]
    with writing():
        public = str(attacker.files.load().public)
        entry = append("audit.archived", ANNA, clock=attacker.clock, **told, new=public)
    sign_and_anchor(attacker.clock)
    hide(attacker, entry.seq)
    attacker.sql(f"UPDATE {SEGMENT} SET sha256 = %s", "ab" * 32)
    there, here = verify_export(exported(attacker.clock), attacker.files.root()), verify().report
    assert verdicts(there) == (True, True, by == "the key")
    assert not here.complete  # the file is nowhere
    unsigned = f"Entry {entry.seq} says that entries were archived, without the key's signature."
    assert (unsigned in there.warnings) == (unsigned in here.warnings) == (by != "the key")
    assert ("No signed entry" in str(here.problems)) == (by != "the key")


def test_an_export_behind_segments_is_complete_as_an_entry_tells_of_them(moved: Attacker) -> None:
    lines = exported(moved.clock)
    report = verify_export(lines, moved.files.root())
    assert (verdicts(report), report.first_seq) == ((True, True, True), 10)
    other = [line.replace('facts\\":{\\"bytes', 'facts\\":{\\"bites') for line in lines]
    assert verdicts(verify_export(other, moved.files.root()))[0] is False


@pytest.mark.parametrize("entry", [7, 9, 12, 99])
def test_the_database_refuses_a_segment_that_no_entry_tells_of(
    trail: KeyFiles, clock: FakeClock, entry: int
) -> None:
    """With the seals in place: else it would free entries to be deleted."""
    rows = [Entry(*row) for some in stored_rows() for row in some]
    sql, values = make_up(clock, rows, entry)
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
    assert not Segment.objects.exists()


@pytest.mark.parametrize("fact", ["first", "last", "sha256"])
def test_the_database_refuses_a_segment_that_an_entry_tells_otherwise(
    trail: KeyFiles, clock: FakeClock, fact: str
) -> None:
    told: dict[str, object] = {"first": 1, "last": 5, "sha256": ""} | {fact: 4}
    with writing():
        entry = append("audit.archived", ANNA, clock=clock, **told)
    rows = [Entry(*row) for some in stored_rows() for row in some]
    sql, values = make_up(clock, rows, entry.seq)
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(sql, values)


DAMAGE = [
    "prev = 'zz'", "rotations = 'null'", "rotations = '[1]'", "tree = 'x'",
    "tree = '9:00,11'", "sha256 = ''",
]  # fmt: skip
ON_SQLITE = [
    "name = 'a' || char(0)", "prev = 7", "tree = x'ff'", "last_at = 'x'",
    "at = 5", "size = 'x'", "entry = 'x'", "first = 'x'", "last = 'x'", "first = 6.5",
]  # fmt: skip


@pytest.mark.parametrize("change", DAMAGE)
def test_a_damaged_row_is_a_verdict_and_no_page_fails_of_it(moved: Attacker, change: str) -> None:
    check_damage(moved, change)


@pytest.mark.parametrize("change", ON_SQLITE)
@pytest.mark.both_databases(on=["sqlite"])  # PostgreSQL keeps types
def test_a_value_of_another_type_is_a_verdict_too(moved: Attacker, change: str) -> None:
    check_damage(moved, change)


def check_damage(moved: Attacker, change: str) -> None:
    """The verdict names the file, where the row still says which it is."""
    name = names()[1]
    moved.sql(f"UPDATE {SEGMENT} SET {change} WHERE first = 6")
    report = verify(index=True).report
    assert report.ok is ("name" in change)
    assert report.ok or "first" in change or "last =" in change or name in report.problems[0]
    client = Client()
    make.sign_in(client, make.user("arno", AUDITORS))
    for path in ("", "verify/", f"{newest_seq()}/", "7/", "when/", "when/?at=2026-11-23T09:00"):
        page = client.get(f"/audit/{path}")
        assert page.status_code in (200, 404), path
    assert ("damaged" in client.get("/audit/verify/").content.decode()) is not report.ok
    exported(moved.clock)


def test_a_segments_row_removed(moved: Attacker) -> None:
    moved.sql(f"DELETE FROM {SEGMENT} WHERE first = 6")
    report = verify().report
    assert not report.ok
    assert report.bad_seq == 6


def test_all_rows_of_segments_removed(moved: Attacker) -> None:
    moved.sql(f"DELETE FROM {SEGMENT}")
    report = verify().report
    assert (report.intact, report.complete) == (False, False)


def test_moved_entries_put_back_changed_are_not_looked_at(moved: Attacker) -> None:
    """What lies in a segment is read from its file alone."""
    first = Segment.objects.order_by("first")[0]
    LedgerRow.objects.create(seq=first.last, body="{}", prev=b"", hash=b"")
    assert verdicts(verify().report) == (True, True, True)
