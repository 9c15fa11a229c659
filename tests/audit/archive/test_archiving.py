"""Old entries in archive files: nothing is lost at any moment, and everything still verifies."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from switcher.audit import archiving, checkpoints, ledger_reader, verification
from switcher.audit.archive_files import newest_archive_file
from switcher.audit.archiving import NotArchived, archive
from switcher.audit.export import JSONL, Export, chunks
from switcher.audit.filters import Filters
from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.audit.ledger import append, writing
from switcher.audit.ledger_reader import newest_seq
from switcher.audit.paths import archive_folder
from switcher.audit.point_in_time import hosts_at
from switcher.audit.signer import Upkeep
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verification import verify
from switcher.audit.verifier.switchboard_verify import verify_files
from switcher.domain.clock import system
from switcher.domain.errors import Conflict
from switcher.models import ArchiveFile, AuditEntry, LedgerRow, Origin
from switcher.records import Actor
from tests import make
from tests.audit.conftest import DORA, Background, verify_export, write
from tests.clocks import FakeClock

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

BEN = Actor("ben", "page", ip="192.0.2.14", agent="Firefox")


@pytest.fixture
def old(proofs: KeyFiles, clock: FakeClock) -> FakeClock:
    """Forty signed entries that are a week old, and ten that are not."""
    for _ in range(4):
        write(clock, 10)
        checkpoints.sign(clock)
    clock.pass_time(7 * 86400)
    write(clock, 9)
    checkpoints.sign(clock)
    return clock


def move(clock: FakeClock, **values: Any) -> ArchiveFile | None:
    return archive(clock.now() - timedelta(days=1), DORA, clock, **values)


def stored() -> list[int]:
    return list(LedgerRow.objects.order_by("seq").values_list("seq", flat=True))


def test_old_entries_go_to_a_file_and_everything_verifies(old: FakeClock) -> None:
    moved = move(old)
    assert moved is not None
    assert (moved.first, moved.last) == (1, 41)
    assert stored() == list(range(42, 52))
    assert AuditEntry.objects.order_by("seq").first().seq == 42  # type: ignore[union-attr]
    report = verify(index=True)
    assert (report.ok, report.report.entries, report.report.problems) == (True, 51, [])
    assert report.report.first_seq == 1


def test_the_entry_names_the_file(old: FakeClock) -> None:
    move(old)
    entry = AuditEntry.objects.get(kind="audit.archived")
    file = ArchiveFile.objects.get()
    path = archive_folder() / file.name
    assert entry.facts["file"] == file.name
    assert entry.facts["sha256"] == file.sha256
    assert (entry.facts["bytes"], entry.actor) == (path.stat().st_size, "dora")
    assert file.entry == entry.seq
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_proves_itself_alone(old: FakeClock, proofs: KeyFiles) -> None:
    move(old, max_entries=25)
    move(old, max_entries=25)
    for file in ArchiveFile.objects.all():
        with (archive_folder() / file.name).open(encoding="utf-8") as lines:
            report = verify_export(lines, proofs.root())
        # What tells of the one before it lies in entries that came later than this one's.
        whole = file.first == 1
        assert (report.intact, report.anchored, report.complete) == (True, True, whole)
        assert (report.first_seq, report.last_seq) == (file.first, file.last)


def test_files_and_the_export_after_them_verify_as_one_chain(
    old: FakeClock, proofs: KeyFiles
) -> None:
    move(old, max_entries=25)
    move(old, max_entries=25)
    checkpoints.sign(old)
    whole = Export(JSONL, Filters(), newest_archive_file(), newest_seq(), "arno", old.now())
    lines = b"".join(chunk.data for chunk in chunks(whole)).decode().splitlines()
    files = [
        (archive_folder() / file.name).read_text(encoding="utf-8").splitlines()
        for file in ArchiveFile.objects.all()
    ]
    for some in ([*files, lines], [files[1], lines], [lines]):
        assert verify_files(some, proofs.root()).ok
    assert not verify_files([files[0], lines], proofs.root()).complete


@pytest.mark.parametrize("after", ["the files", "the entries"])
def test_archiving_while_signing_is_no_alarm(
    old: FakeClock, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """The newest peak of the tree begins before what is moved."""
    write(old, 5)
    name = "newest_archive_file" if after == "the files" else "last_archived"
    real, moves = getattr(checkpoints, name), iter([True])

    def move_meanwhile() -> Any:
        found = real()
        if next(moves, False):
            move(old)
        return found

    monkeypatch.setattr(checkpoints, name, move_meanwhile)
    made = checkpoints.sign(old)
    assert next(moves, None) is None
    assert made is not None
    assert verify().ok


def test_a_file_ends_where_a_checkpoint_does_and_the_next_begins_after_it(
    old: FakeClock,
) -> None:
    first, second, third = (move(old, max_entries=25) for _ in range(3))
    assert first is not None
    assert second is not None
    assert (first.last, second.first, second.last, third) == (21, 22, 41, None)


def test_nothing_young_is_archived(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock, 10)
    checkpoints.sign(clock)
    assert move(clock) is None
    assert not archive_folder().exists()


def test_nothing_unsigned_is_archived(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock, 10)
    clock.pass_time(7 * 86400)
    assert move(clock) is None


def test_an_open_switch_keeps_its_entries(old: FakeClock) -> None:
    last = stored()[-1]
    make.open_switch(make.host(), clock=old)
    checkpoints.sign(old)
    old.pass_time(7 * 86400)
    write(old, 5)
    checkpoints.sign(old)
    moved = archive(old.now() - timedelta(days=1), DORA, old)
    assert moved is not None
    assert moved.last == last


def test_signing_continues_and_keys_rotate_after_archiving(
    old: FakeClock, proofs: KeyFiles
) -> None:
    checkpoints.rotate_key(DORA, old)
    old.pass_time(7 * 86400)
    write(old, 5)
    checkpoints.sign(old)
    move(old)
    assert not AuditEntry.objects.filter(kind="audit.key-rotated").exists()
    write(old, 5)
    assert checkpoints.sign(old) is not None
    checkpoints.rotate_key(DORA, old)
    write(old, 5)
    checkpoints.sign(old)
    assert checkpoints.key_problem() == ""
    report = verify().report
    assert (report.ok, report.problems) == (True, [])
    (archive_folder() / ArchiveFile.objects.get().name).unlink()
    report = verify().report
    assert (report.intact, report.anchored, report.complete) == (True, True, False)


def test_addresses_that_nothing_refers_to_are_removed_too(old: FakeClock) -> None:
    with writing():
        append("test.told", BEN, clock=old)
    checkpoints.sign(old)
    old.pass_time(7 * 86400)
    with writing():
        append("test.told", BEN, clock=old)
    write(old, 1)
    checkpoints.sign(old)
    move(old)
    assert Origin.objects.count() == 1
    assert AuditEntry.objects.get(actor="ben").origin is not None


@pytest.mark.parametrize(
    "dies", ["_write", "_verify", "sync_folder", "record_archived", "remove_all_archived"]
)  # each before it is done
def test_a_crash_at_any_step_loses_nothing_and_the_next_run_finishes(
    old: FakeClock, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    calls = iter([False, True])
    real = archiving.remove_all_archived
    with monkeypatch.context() as patched:
        if dies == "remove_all_archived":  # it is what a run begins with, too
            patched.setattr(archiving, dies, lambda: die() if next(calls) else real())
        else:
            patched.setattr(archiving, dies, die)
        with pytest.raises(Killed):
            move(old)
    assert verify(index=True).ok
    move(old)
    assert stored()[0] == 42
    assert ArchiveFile.objects.count() == 1
    assert AuditEntry.objects.filter(kind="audit.archived").count() == 1
    assert archiving.orphans() == []
    assert not list(archive_folder().glob(".*.part"))
    assert verify(index=True).ok


@pytest.mark.parametrize("call", range(4))
def test_archiving_that_is_cut_off_records_nothing(
    old: FakeClock, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """At whichever call: while it writes, while it reads that again, before it tells of it."""
    monkeypatch.setattr(archiving, "PROGRESS_LINES", 20)
    calls = iter(range(100))

    def cut(*_: int) -> None:
        if next(calls) == call:
            raise verification.Cut

    newest = newest_seq()
    with pytest.raises(verification.Cut):
        move(old, on_progress=cut)
    assert (newest_seq(), ArchiveFile.objects.count()) == (newest, 0)
    assert not list(archive_folder().glob("*audit-*"))
    assert move(old) is not None
    assert verify(index=True).ok


def test_a_second_process_is_refused(old: FakeClock) -> None:
    def second(*_: int) -> None:
        before = set(archive_folder().glob("*audit-*"))
        with pytest.raises(archiving.Busy):
            move(old)
        assert set(archive_folder().glob("*audit-*")) == before

    assert move(old, on_progress=second) is not None
    file = ArchiveFile.objects.get()
    sealed = (archive_folder() / file.name).read_bytes()
    assert hashlib.sha256(sealed).hexdigest() == file.sha256
    assert verify(index=True).ok


@pytest.mark.both_databases(on=["postgresql"])  # there servers share a database
def test_a_process_on_another_machine_is_refused_by_the_database(
    old: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)  # another machine's folder
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [archiving._ARCHIVE_LOCK])
        with pytest.raises(archiving.Busy):
            move(old)
    finally:
        other.close()
    assert stored()[0] == 1


def test_the_run_after_a_crash_uses_the_file_that_exists(
    old: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what was verified; to write it again would take the place of a file."""
    with monkeypatch.context() as patched, pytest.raises(InterruptedError):
        patched.setattr(archiving, "record_archived", interrupted)
        move(old)
    (left,) = archiving.orphans()
    before = (archive_folder() / left).stat()
    old.pass_time(60)
    move(old)
    assert (archive_folder() / left).stat().st_ino == before.st_ino
    assert verify().ok


def interrupted(*_: Any, **__: Any) -> None:
    raise InterruptedError


@pytest.mark.parametrize("content", ["", "another's\n", "{}\n", '{"type":"export"}\n'])
def test_a_file_of_the_same_name_is_neither_replaced_nor_used(old: FakeClock, content: str) -> None:
    archive_folder().mkdir()
    path = archive_folder() / "audit-000000000001-000000000041.jsonl"
    path.write_text(content)
    with pytest.raises(NotArchived, match=path.name):
        move(old)
    assert (path.read_text(), stored()[0]) == (content, 1)


def test_a_file_that_appears_while_another_is_written_is_not_replaced(old: FakeClock) -> None:
    path = archive_folder() / "audit-000000000001-000000000041.jsonl"
    with pytest.raises(Conflict, match="appeared meanwhile"):
        move(old, on_progress=lambda *_: path.write_text("another's"))
    assert (path.read_text(), stored()[0]) == ("another's", 1)


def test_a_half_written_file_of_a_crash_is_removed(old: FakeClock) -> None:
    """Also where it cannot be written to: it is for its owner to read alone."""
    archive_folder().mkdir()
    left = archive_folder() / ".audit-000000000001-000000000041.jsonl.part"
    left.write_text("half")
    left.chmod(0o400)
    assert move(old) is not None
    assert not left.exists()


def test_entries_that_do_not_verify_stay(old: FakeClock) -> None:
    drop_triggers()
    LedgerRow.objects.filter(pk=7).update(body=LedgerRow.objects.get(pk=7).body + " ")
    make_triggers()
    with pytest.raises(NotArchived, match="Entry 7 was changed"):
        move(old)
    assert stored()[0] == 1
    assert [path.name for path in archive_folder().iterdir()] == [".lock"]


def test_only_archived_entries_can_be_deleted(old: FakeClock) -> None:
    move(old)
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        LedgerRow.objects.filter(pk=45).delete()
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        ArchiveFile.objects.update(last=50)
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        ArchiveFile.objects.all().delete()
    row = ArchiveFile.objects.get()
    row.pk, row.first, row.last = None, 45, 50
    with pytest.raises(DatabaseError, match="sealed"), transaction.atomic():
        row.save(force_insert=True)


def test_the_schedule_archives_one_file_at_a_time(
    old: FakeClock, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = Background(old)
    background.upkeep()
    assert not ArchiveFile.objects.exists()
    settings.SWITCHER_AUDIT_KEEP_DAYS = 1
    background.upkeep()
    assert ArchiveFile.objects.count() == 1


def spans() -> list[tuple[int, int]]:
    return list(ArchiveFile.objects.order_by("first").values_list("first", "last"))


def test_the_entries_of_archiving_are_no_reason_for_the_next_file(
    old: FakeClock, settings: Any
) -> None:
    """Its own entry, and the daily checks, become old as well."""
    settings.SWITCHER_AUDIT_KEEP_DAYS = 1
    background = Background(old)
    for _ in range(20):
        background.upkeep()
        background.sign()
        old.pass_time(12 * 3600)
    first, second = spans()
    assert first == (1, 41)
    assert second[0] == 42  # what was young then


def test_the_schedule_makes_one_file_a_day_unless_a_full_one_is_due(
    old: FakeClock, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SWITCHER_AUDIT_KEEP_DAYS = 1
    background = Background(old)
    monkeypatch.setattr(archiving, "MAX_ENTRIES", 25)
    monkeypatch.setattr(archiving.archive, "__defaults__", (system, 25, lambda *_: None))
    background.upkeep()
    background.upkeep()
    assert spans() == [(1, 21)]  # the other 20 are not a full one
    old.pass_time(24 * 3600)
    background.upkeep()
    assert spans()[:2] == [(1, 21), (22, 41)]
    write(old, 30)
    checkpoints.sign(old)
    old.pass_time(3600)
    archiving.archive_on_schedule(old.now(), DORA, old)
    assert len(spans()) == 3


def test_a_schedule_that_finds_another_process_at_it_does_nothing(
    old: FakeClock, settings: Any
) -> None:
    settings.SWITCHER_AUDIT_KEEP_DAYS = 1
    assert move(old, on_progress=lambda *_: Upkeep(old)._archive_old()) is not None
    assert not AuditEntry.objects.filter(kind="audit.alarm").exists()
    assert len(spans()) == 1


def test_archiving_that_fails_is_an_alarm(old: FakeClock, settings: Any) -> None:
    settings.SWITCHER_AUDIT_KEEP_DAYS = 1
    archive_folder().parent.joinpath("audit-segments").write_text("in the way")
    Background(old).upkeep()
    alarm = AuditEntry.objects.get(kind="audit.alarm", reason__startswith="Old entries")
    assert "could not be archived" in alarm.reason


def test_archiving_that_fails_is_not_tried_again_at_once(
    old: FakeClock, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SWITCHER_AUDIT_KEEP_DAYS = 1
    tries = []

    def fails(*_: Any) -> None:
        tries.append(old.monotonic())
        raise NotArchived("What is stored does not verify.")

    monkeypatch.setattr(archiving, "archive_on_schedule", fails)
    background = Background(old)
    for _ in range(4):
        background.upkeep()
        old.pass_time(400)
    assert len(tries) == 2


class TestWhileOthersRead:
    """Entries are moved while they are verified or exported: the verdicts stay what they are."""

    @pytest.fixture
    def many(self, old: FakeClock, monkeypatch: pytest.MonkeyPatch) -> FakeClock:
        """Read ten at a time."""
        monkeypatch.setattr(ledger_reader, "CHUNK", 10)
        return old

    @pytest.mark.parametrize("index", [False, True])
    @pytest.mark.parametrize("most", [11, 21, 100])
    @pytest.mark.parametrize("after", [0, 10, 20, 40])
    def test_verifying_continues_in_the_file(
        self, many: FakeClock, after: int, most: int, index: bool
    ) -> None:
        def tell(done: int, total: int) -> None:
            if done >= after:
                move(many, max_entries=most)

        report = verify(tell, index=index)
        assert (report.ok, report.report.problems) == (True, [])
        assert report.report.entries >= 51

    @pytest.mark.parametrize("at", ["archive_files", "newest_seq"])
    def test_verifying_that_begins_during_archiving(
        self, many: FakeClock, monkeypatch: pytest.MonkeyPatch, at: str
    ) -> None:
        real = getattr(verification, at)

        def then_moved(*args: Any) -> Any:
            found = real(*args)
            move(many)
            return found

        monkeypatch.setattr(verification, at, then_moved)
        assert verify(index=True).report.problems == []

    @pytest.mark.parametrize("after", [-1, 0, 1, 2, 4])
    def test_an_export_continues_in_the_file(
        self, many: FakeClock, proofs: KeyFiles, after: int
    ) -> None:
        lines = []
        whole = Export(JSONL, Filters(), newest_archive_file(), newest_seq(), "arno", many.now())
        if after == -1:
            assert move(many) is not None
        for number, chunk in enumerate(chunks(whole)):
            lines += chunk.data.decode().splitlines()
            if number == after:
                assert move(many) is not None
        report = verify_export(lines, proofs.root())
        assert (report.ok, report.problems, report.entries) == (True, [], 50)

    def test_a_file_that_is_gone_by_then_is_reported(self, many: FakeClock) -> None:
        def tell(done: int, total: int) -> None:
            if not ArchiveFile.objects.exists():
                move(many)
                (archive_folder() / ArchiveFile.objects.get().name).unlink()

        report = verify(tell).report
        assert (report.intact, report.anchored, report.complete) == (True, True, False)


class TestWhoWasActiveWhen:
    """A host's state is kept when the entries that tell it go."""

    def tell(self, clock: FakeClock, kind: str, host: str = "north-1", **facts: Any) -> None:
        with writing():
            append(kind, DORA, host=host, clock=clock, **facts)

    def archived(self, clock: FakeClock) -> None:
        write(clock, 2)
        checkpoints.sign(clock)
        clock.pass_time(7 * 86400)
        assert move(clock) is not None

    def test_it_is_still_known(self, proofs: KeyFiles, clock: FakeClock) -> None:
        self.tell(clock, "host.added")
        self.tell(clock, "host.activated", model="mid-a")
        since = clock.now()
        self.archived(clock)
        (north,) = hosts_at(clock.now())
        assert (north.model, north.since) == ("mid-a", since)
        assert [line.kind for line in north.proofs] == ["audit.archived"]

    def test_it_is_known_through_two_files(self, proofs: KeyFiles, clock: FakeClock) -> None:
        self.tell(clock, "host.activated", model="mid-a")
        self.archived(clock)
        self.tell(clock, "host.changed")
        self.archived(clock)
        assert [h.model for h in hosts_at(clock.now())] == ["mid-a"]

    def test_a_later_entry_counts(self, proofs: KeyFiles, clock: FakeClock) -> None:
        self.tell(clock, "host.activated", model="mid-a")
        self.archived(clock)
        clock.pass_time(60)
        self.tell(clock, "host.activated", model="mid-b")
        assert [h.model for h in hosts_at(clock.now())] == ["mid-b"]
        assert [h.model for h in hosts_at(clock.now() - timedelta(seconds=30))] == ["mid-a"]

    def test_another_host_of_the_same_name_inherits_nothing(
        self, proofs: KeyFiles, clock: FakeClock
    ) -> None:
        self.tell(clock, "host.activated", model="mid-a")
        self.tell(clock, "host.removed")
        self.archived(clock)
        (gone,) = hosts_at(clock.now())
        assert gone.removed_at is not None
        self.tell(clock, "host.added")
        (fresh,) = hosts_at(clock.now())
        assert (fresh.model, fresh.removed_at) == ("", None)


class TestCommand:
    @pytest.fixture
    def run(self, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
        def go(*args: str) -> str:
            call_command("audit", *args)
            return capsys.readouterr().out

        return go

    def test_it_says_what_it_would_do_and_does_nothing(
        self, old: FakeClock, run: Callable[..., str]
    ) -> None:
        assert "would be moved" in run("archive", "--older-than", "0", "--dry-run")
        assert stored()[0] == 1

    def test_it_archives_and_prints_json(self, old: FakeClock, run: Callable[..., str]) -> None:
        printed = json.loads(run("archive", "--before", "2099-01-01", "--json"))
        assert printed["moved"][0]["first"] == 1
        assert Path(archive_folder() / printed["moved"][0]["file"]).is_file()

    def test_it_says_that_there_is_nothing_to_archive(
        self, old: FakeClock, run: Callable[..., str]
    ) -> None:
        assert "No entries from before 2000-01-01 00:00 UTC" in run(
            "archive", "--before", "2000-01-01"
        )
