"""Signing: when it is due, over what, with which key, and over what never."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from switcher.audit import checkpoints, search_index
from switcher.audit.alarms import raise_alarm
from switcher.audit.immutability_triggers import drop_triggers
from switcher.audit.signing_keys import KeyFiles, KeyRefused, new_key
from switcher.audit.verification import verify
from switcher.audit.verifier.switchboard_verify import Note, Tree, read_note
from switcher.domain.states import ENDED, State
from switcher.models import AuditEntry, Checkpoint, CheckpointDelivery, Host, LedgerRow
from tests.audit.conftest import write
from tests.clocks import FakeClock
from tests.records.conftest import ANNA, at_once, ended, open_one, take

pytestmark = pytest.mark.django_db(transaction=True)


def kinds() -> list[str]:
    return list(AuditEntry.objects.order_by("seq").values_list("kind", flat=True))


# --- when ------------------------------------------------------------------------------------


def test_nothing_is_due_if_nothing_was_written(proofs: KeyFiles, clock: FakeClock) -> None:
    assert not checkpoints.is_due(clock)
    assert checkpoints.sign(clock) is None
    assert not proofs.private.exists()


def test_an_entry_is_signed_before_it_is_a_minute_old(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock)
    assert not checkpoints.is_due(clock)
    clock.pass_time(45)
    assert checkpoints.is_due(clock)
    checkpoints.sign(clock)
    clock.pass_time(3600)
    assert not checkpoints.is_due(clock)


def test_a_clock_that_was_set_back_delays_nothing(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock)
    clock.pass_time(-3600)
    assert checkpoints.is_due(clock)


@pytest.mark.parametrize("end", sorted(ENDED - {State.ACTIVE}))
def test_every_ended_switch_is_signed_at_once(
    proofs: KeyFiles, host: Host, clock: FakeClock, end: State
) -> None:
    checkpoints.sign(clock)
    held = take(open_one(host, clock), clock)
    held.move(State.CHECKING)
    assert not checkpoints.is_due(clock)
    if end is State.ROLLED_BACK:
        held.move(State.LOADING)
        held.move(State.RESTORING)
    held.end(end, outcome="It is over.")
    assert checkpoints.is_due(clock)


# --- what ------------------------------------------------------------------------------------


def test_the_first_signature_makes_the_key_and_records_it(
    proofs: KeyFiles, clock: FakeClock
) -> None:
    write(clock, 3)
    made = checkpoints.sign(clock)
    assert made is not None
    assert kinds() == [*["test.told"] * 3, "audit.key-made"]
    read = read_note(made.note, proofs.root())
    tree = Tree()
    tree.extend([bytes(row.hash) for row in LedgerRow.objects.order_by("seq")])
    assert (read.size, read.root) == (4, tree.root())
    assert proofs.remembered() == made.note
    assert [d.sink for d in CheckpointDelivery.objects.all()] == ["file"]


def test_signing_continues_from_the_last_checkpoint(proofs: KeyFiles, clock: FakeClock) -> None:
    for count in (1, 1, 2, 3, 5, 8, 13):
        write(clock, count)
        checkpoints.sign(clock)
    assert checkpoints.sign(clock) is None
    found = verify().report
    assert found.ok
    assert found.checkpoints == 7
    assert found.last_checkpoint == found.entries == 34


def test_only_one_of_several_processes_signs(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock, 2)
    results = at_once(*[lambda: checkpoints.sign(clock)] * 6)
    assert not [r for r in results if isinstance(r, Exception)]
    assert Checkpoint.objects.count() == 1
    assert kinds().count("audit.key-made") == 1
    assert verify().ok


@pytest.mark.parametrize("already", [4, 5, 7, 8])
@pytest.mark.parametrize("field", ["hash", "body", "prev"])
def test_a_change_after_the_checkpoint_is_not_signed(
    proofs: KeyFiles, clock: FakeClock, already: int, field: str
) -> None:
    write(clock, already)
    checkpoints.sign(clock)
    write(clock, 3)
    drop_triggers()
    changed: Any = "{}" if field == "body" else b"\7" * 32
    LedgerRow.objects.filter(seq=already + 3).update(**{field: changed})
    with pytest.raises(checkpoints.TrailBroken, match=f"Entry {already + 3} "):
        checkpoints.sign(clock)
    assert Checkpoint.objects.count() == 1


@pytest.mark.parametrize("already", [4, 5, 7, 8])
def test_a_tail_that_follows_another_entry_than_the_signed_is_not_signed(
    proofs: KeyFiles, clock: FakeClock, already: int
) -> None:
    """Whoever computes the chain anew changes the last signed entry as well."""
    write(clock, already)
    checkpoints.sign(clock)
    drop_triggers()
    LedgerRow.objects.filter(seq=already + 1).update(hash=b"\7" * 32)
    write(clock, 3)
    with pytest.raises(checkpoints.TrailBroken, match="are not those that were signed"):
        checkpoints.sign(clock)


@pytest.mark.parametrize(
    "change", [{"tree": "1:" + "00" * 32}, {"tree": ""}, {"note": ""}, {"size": 90}]
)
def test_nothing_is_signed_after_a_changed_checkpoint(
    proofs: KeyFiles, clock: FakeClock, change: dict[str, Any]
) -> None:
    write(clock, 3)
    checkpoints.sign(clock)
    write(clock)
    Checkpoint.objects.update(**change)
    with pytest.raises(checkpoints.TrailBroken, match="last checkpoint"):
        checkpoints.sign(clock)


def test_a_database_older_than_what_was_signed_is_not_signed(
    proofs: KeyFiles, clock: FakeClock
) -> None:
    write(clock, 3)
    checkpoints.sign(clock)
    older = Checkpoint.objects.get()
    write(clock, 3)
    checkpoints.sign(clock)
    Checkpoint.objects.exclude(pk=older.pk).delete()
    with pytest.raises(checkpoints.TrailBroken, match="over 7 entries was signed, but the newest"):
        checkpoints.sign(clock)


# --- keys ------------------------------------------------------------------------------------


def test_a_rotation_is_an_entry_that_both_keys_sign(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock, 3)
    checkpoints.rotate_key(ANNA, clock)
    write(clock, 3)
    checkpoints.sign(clock)
    assert kinds().count("audit.key-rotated") == 1
    assert len(proofs.public_keys()) == 2
    first, second = proofs.public_keys()
    keys = [Note.parse(c.note).signer([first, second]) for c in Checkpoint.objects.all()]
    assert keys == [second, second, first]  # newest first
    assert verify().report.problems == []
    assert verify().ok


def test_keys_can_be_rotated_again_and_again(proofs: KeyFiles, clock: FakeClock) -> None:
    for _ in range(4):
        checkpoints.rotate_key(ANNA, clock)
    assert len(proofs.public_keys()) == 5
    assert verify().ok


@pytest.mark.parametrize("dies_at", ["append", "promote"])
def test_a_rotation_that_a_crash_cut_short_is_finished_or_undone(
    proofs: KeyFiles, clock: FakeClock, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(clock, 3)
    checkpoints.sign(clock)

    def dies(*_: Any, **__: Any) -> None:
        raise InterruptedError

    target: Any = checkpoints if dies_at == "append" else KeyFiles
    monkeypatch.setattr(target, "append" if dies_at == "append" else "promote_next", dies)
    with pytest.raises(InterruptedError):
        checkpoints.rotate_key(ANNA, clock)
    monkeypatch.undo()
    assert proofs.next.exists()
    write(clock, 3)
    assert checkpoints.sign(clock) is not None
    assert not proofs.next.exists()
    assert len(proofs.public_keys()) == (1 if dies_at == "append" else 2)
    assert verify().ok


def test_an_exchanged_key_signs_nothing(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock)
    checkpoints.sign(clock)
    write(clock)
    assert checkpoints.key_problem() == ""
    proofs.private.unlink()
    proofs._write_key(proofs.private, new_key(proofs.name))
    assert "exchanged without a rotation" in checkpoints.key_problem()
    with pytest.raises(KeyRefused, match="exchanged without a rotation"):
        checkpoints.sign(clock)
    # Also where the public side was exchanged with it: the trail tells of another.
    proofs.public.unlink()
    proofs._publish(proofs.load().public)
    with pytest.raises(KeyRefused, match="exchanged without a rotation"):
        checkpoints.sign(clock)
    assert Checkpoint.objects.count() == 1


def test_a_key_that_others_can_read_signs_nothing(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock)
    checkpoints.sign(clock)
    write(clock)
    proofs.private.chmod(0o644)
    with pytest.raises(KeyRefused, match="Run: chmod 600"):
        checkpoints.sign(clock)


def test_a_new_key_is_accepted_between_its_entry_and_its_file(
    proofs: KeyFiles, host: Host, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another process sees it, which asks just then."""
    checkpoints.sign(clock)
    settle, found = checkpoints._prepare_key, []

    def look_first(*args: Any) -> None:
        found.append(checkpoints.key_problem())
        settle(*args)

    monkeypatch.setattr(checkpoints, "_prepare_key", look_first)
    checkpoints.rotate_key(ANNA, clock)
    assert proofs.next.exists() is False
    assert set(found) == {""}


def test_no_other_process_sees_an_exchanged_key_during_rotations(
    proofs: KeyFiles, host: Host, clock: FakeClock
) -> None:
    checkpoints.sign(clock)
    done = threading.Event()

    def rotate() -> list[str]:
        try:
            return [checkpoints.rotate_key(ANNA, clock) for _ in range(8)]
        finally:
            done.set()

    def look() -> list[str]:
        found = []
        while not done.is_set():
            found.append(checkpoints.key_problem())
        return found

    rotated, seen = at_once(rotate, look)
    assert not isinstance(rotated, Exception), rotated
    assert not isinstance(seen, Exception), seen
    assert set(seen) == {""}
    assert len(proofs.public_keys()) == 9
    assert verify().ok


def test_a_rotation_with_an_exchanged_key_is_refused(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock)
    checkpoints.sign(clock)
    os.unlink(proofs.private)
    with pytest.raises(KeyRefused, match="is missing"):
        checkpoints.rotate_key(ANNA, clock)
    assert "audit.key-rotated" not in kinds()


def test_an_alarm_is_written_once_a_day(db: None, clock: FakeClock) -> None:
    assert raise_alarm("key", "It is gone.", clock)
    assert not raise_alarm("key", "It is gone.", clock)
    assert raise_alarm("key", "It is another.", clock)
    clock.pass_time(24 * 3600)
    assert raise_alarm("key", "It is gone.", clock)


# --- the index -------------------------------------------------------------------------------


def test_the_index_is_rebuilt_from_the_entries(
    proofs: KeyFiles, host: Host, clock: FakeClock
) -> None:
    ended(host, clock)
    before = list(AuditEntry.objects.order_by("seq").values())
    AuditEntry.objects.filter(seq=2).delete()
    AuditEntry.objects.filter(seq=3).update(actor="mallory", kind="other", outcome="active")
    AuditEntry.objects.create(seq=90, at=clock.now(), kind="forged", actor="x")
    assert verify(index=True).index_differs == 3
    assert search_index.rebuild(ANNA, clock=clock) == (2, 1)
    assert verify(index=True).index_differs == 0
    after = list(AuditEntry.objects.filter(seq__lte=len(before)).order_by("seq").values())
    before[1]["origin_id"] = None  # from where is in no body but as a hash
    assert after == before
    assert kinds()[-1] == "audit.index-rebuilt"


def test_an_exchanged_address_is_seen_in_the_index(
    proofs: KeyFiles, host: Host, clock: FakeClock
) -> None:
    row = open_one(host, clock)
    assert row.origin is not None
    row.origin.ip = "192.0.2.99"
    row.origin.save()
    assert verify(index=True).index_differs == 1
