"""What looks after the trail: signing, delivering, checking, and what it says when it cannot."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from switcher.audit import checking, checkpoints, deliveries, health, sinks
from switcher.audit import signer as signing
from switcher.audit.immutability_triggers import seal, unseal
from switcher.audit.paths import FILE, WEBHOOK, Sink
from switcher.audit.signer import Auditor, CheckpointDelivery, Signer
from switcher.audit.signing_keys import KeyFiles, new_key
from switcher.audit.sinks import NotDelivered
from switcher.audit.verification import verify
from switcher.audit.verifier.switchboard_verify import read_anchors
from switcher.domain.clock import system
from switcher.models import AuditEntry, Checkpoint, Delivery, LedgerRow
from tests.audit.conftest import DORA, write
from tests.clocks import FakeClock
from tests.records.conftest import at_once
from tests.until import until

pytestmark = pytest.mark.django_db(transaction=True)


def facts_of(kind: str) -> list[dict[str, Any]]:
    return [e.facts for e in AuditEntry.objects.filter(kind=kind).order_by("seq")]


def reasons_of(kind: str) -> list[str]:
    return list(
        AuditEntry.objects.filter(kind=kind).order_by("seq").values_list("reason", flat=True)
    )


@pytest.fixture
def anchors(proofs: KeyFiles) -> Path:
    return proofs.private.with_name("anchors.txt")


@pytest.fixture
def signer(proofs: KeyFiles, clock: FakeClock) -> Signer:
    return Signer(clock)


# --- signing and checking ----------------------------------------------------------------------


def test_it_begins_with_what_was_left_unsigned_and_a_check_of_all(
    signer: Signer, clock: FakeClock
) -> None:
    write(clock, 5)
    signer.begin()
    assert Checkpoint.objects.get().size == 6
    (checked,) = facts_of("audit.checked")
    assert checked["verdicts"] == {"intact": True, "anchored": True, "complete": True}
    assert (checked["ok"], checked["entries"], checked["bad_seq"]) == (True, 6, None)


def test_the_whole_trail_is_checked_once_a_day(signer: Signer, clock: FakeClock) -> None:
    write(clock, 5)
    signer.begin()
    clock.pass_time(23 * 3600)
    signer.look()
    assert len(facts_of("audit.checked")) == 1
    clock.pass_time(3600)
    signer.look()
    assert len(facts_of("audit.checked")) == 2


def test_a_bad_check_is_an_alarm_everywhere(
    signer: Signer, clock: FakeClock, anchors: Path
) -> None:
    write(clock, 9)
    signer.begin()
    CheckpointDelivery(Sink(FILE, str(anchors)), clock).tick()
    unseal()
    LedgerRow.objects.filter(seq=4).update(body="{}")
    seal()
    clock.pass_time(25 * 3600)
    signer.look()
    found = facts_of("audit.checked")[-1]
    assert (found["ok"], found["bad_seq"], found["verdicts"]["intact"]) == (False, 4, False)
    assert reasons_of("audit.alarm") == ["The audit trail does not verify: Entry 4 was changed."]
    signer.look()
    said = "The audit trail is not intact. First bad entry: 4."
    assert said in health.problems()
    assert said in health.health(clock).to_json()["problems"]


def test_what_is_broken_is_an_alarm_and_not_signed(signer: Signer, clock: FakeClock) -> None:
    write(clock, 5)
    signer.begin()
    write(clock, 3)
    unseal()
    LedgerRow.objects.filter(seq=9).update(body="{}")
    seal()
    before = Checkpoint.objects.count()
    signer.sign()
    signer.sign()
    assert Checkpoint.objects.count() == before
    assert reasons_of("audit.alarm") == ["Entry 9 was changed."]


def test_an_exchanged_key_is_an_alarm_everywhere(
    signer: Signer, clock: FakeClock, proofs: KeyFiles
) -> None:
    write(clock)
    signer.begin()
    proofs.private.unlink()
    proofs._write_key(proofs.private, new_key(proofs.name))
    write(clock)
    signer.sign()
    signer.look()
    (alarm,) = reasons_of("audit.alarm")
    assert "exchanged without a rotation" in alarm
    assert alarm in health.problems()
    told = health.health(clock).to_json()
    assert (told["ok"], told["audit"]["key"]) == (False, "unusable")
    assert str(proofs.private.parent) not in json.dumps(told)


def test_a_missing_seal_is_made_again_at_the_start_and_written_down(
    signer: Signer, clock: FakeClock
) -> None:
    signer.begin()
    assert facts_of("audit.seal-remade") == []
    name = "sealed_entry_update" if connection.vendor == "sqlite" else "sealed_entry"
    with connection.cursor() as cursor:
        on = "" if connection.vendor == "sqlite" else " ON switcher_ledgerrow"
        cursor.execute(f"DROP TRIGGER {name}{on}")
    Signer(clock).begin()
    assert facts_of("audit.seal-remade") == [{"seals": [name]}]
    with pytest.raises(Exception, match="sealed"):
        LedgerRow.objects.update(body="{}")


def test_a_seal_that_goes_missing_later_is_made_again_too(signer: Signer, clock: FakeClock) -> None:
    signer.begin()
    unseal()
    signer.look()
    assert len(facts_of("audit.seal-remade")[0]["seals"]) >= 5
    assert health.health(clock).triggers == ()


# --- delivering ------------------------------------------------------------------------------


def test_checkpoints_arrive_in_their_order(signer: Signer, clock: FakeClock, anchors: Path) -> None:
    for _ in range(3):
        write(clock, 2)
        signer.sign()
    assert CheckpointDelivery(Sink(FILE, str(anchors)), clock).tick() == signing.LOOK_EVERY_S
    notes = list(read_anchors(anchors.read_text().splitlines()))
    assert notes == [c.note for c in Checkpoint.objects.order_by("size")]
    assert not Delivery.objects.filter(delivered_at=None).exists()


def test_what_several_processes_deliver_arrives_once(
    signer: Signer, clock: FakeClock, anchors: Path
) -> None:
    for _ in range(5):
        write(clock, 2)
        signer.sign()
    couriers = [CheckpointDelivery(Sink(FILE, str(anchors)), clock) for _ in range(4)]
    results = at_once(*[courier.tick for courier in couriers])
    assert not [r for r in results if isinstance(r, Exception)]
    notes = list(read_anchors(anchors.read_text().splitlines()))
    assert sorted(notes) == sorted(c.note for c in Checkpoint.objects.all())


def test_a_claim_of_a_dead_process_runs_out(signer: Signer, clock: FakeClock) -> None:
    write(clock)
    signer.sign()
    assert deliveries.claim(FILE, clock) is not None
    assert deliveries.claim(FILE, clock) is None
    clock.pass_time(deliveries.CLAIM_S)
    assert deliveries.claim(FILE, clock) is not None


def test_a_dead_sink_is_tried_less_and_less_often_and_gets_all_once_it_is_back(
    signer: Signer, clock: FakeClock, anchors: Path
) -> None:
    write(clock)
    signer.sign()
    anchors.mkdir()  # no line can be appended to a directory
    courier = CheckpointDelivery(Sink(FILE, str(anchors)), clock)
    waits = []
    for _ in range(8):
        waits.append(courier.tick())
        clock.pass_time(waits[-1])
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    write(clock)
    signer.sign()
    anchors.rmdir()
    assert courier.tick() == signing.LOOK_EVERY_S
    assert len(list(read_anchors(anchors.read_text().splitlines()))) == 2
    assert health.health(clock).problems == ()


def test_a_dead_sink_shows_on_the_page_and_in_health_and_as_one_entry(
    signer: Signer, clock: FakeClock, anchors: Path
) -> None:
    write(clock)
    signer.begin()
    anchors.mkdir()
    CheckpointDelivery(Sink(FILE, str(anchors)), clock).tick()
    signer.look()
    signer.look()
    said = (
        "The file sink does not take checkpoints: Is a directory. Not delivered yet: 1 checkpoint."
    )
    assert health.problems() == (said,)
    told = health.health(clock).to_json()
    assert told["problems"] == [said]
    assert told["audit"]["sinks"][0]["ok"] is False
    assert reasons_of("audit.alarm") == ["The file sink does not take checkpoints."]


def test_a_sink_that_hangs_shows_before_it_has_failed(
    signer: Signer, clock: FakeClock, settings: Any
) -> None:
    settings.SWITCHER_AUDIT_WEBHOOK = "http://127.0.0.1:9/"
    write(clock)
    signer.begin()
    assert deliveries.claim(WEBHOOK, clock) is not None  # and no answer comes
    clock.pass_time(31)
    assert any("webhook sink" in text for text in health.health(clock).problems)


def test_unsigned_entries_show(db: None, proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock, 2)
    clock.pass_time(80)
    assert health.health(clock).problems == ("2 audit entries are not signed yet.",)


# --- as it runs ------------------------------------------------------------------------------


def test_running_it_signs_and_delivers_by_itself(
    proofs: KeyFiles, anchors: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook hangs meanwhile: it holds up neither the file nor the signing."""
    hangs, may_end = threading.Event(), threading.Event()
    real = sinks.deliver

    def deliver(sink: Sink, note: str) -> None:
        if sink.name == WEBHOOK:
            hangs.set()
            may_end.wait(20)
            raise NotDelivered("no answer in time")
        real(sink, note)

    monkeypatch.setattr(signing, "deliver", deliver)
    monkeypatch.setattr(signing, "LOOK_EVERY_S", 0.05)
    settings.SWITCHER_AUDIT_WEBHOOK = "http://127.0.0.1:9/"
    write(system, 3)  # type: ignore[arg-type]
    auditor = Auditor()
    auditor.start()
    try:
        until(anchors.exists)
        assert hangs.wait(10)
        until(lambda: facts_of("audit.checked"))
        write(system, 3)  # type: ignore[arg-type]
        may_end.set()
        until(lambda: Delivery.objects.filter(sink=WEBHOOK, error="no answer in time").exists())
    finally:
        may_end.set()
        auditor.stop(10)
    # The end signs what was left, and the file has it.
    assert Checkpoint.objects.first().size == LedgerRow.objects.count()  # type: ignore[union-attr]
    notes = list(read_anchors(anchors.read_text().splitlines()))
    assert notes[-1] == Checkpoint.objects.first().note  # type: ignore[union-attr]
    assert verify().ok


def test_signing_goes_on_while_the_whole_trail_is_verified(
    proofs: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifies, may_end = threading.Event(), threading.Event()
    real = checking.verify

    def slow(tell: Any) -> Any:
        verifies.set()
        may_end.wait(20)
        return real(tell)

    monkeypatch.setattr(checking, "verify", slow)
    monkeypatch.setattr(signing, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(checkpoints, "SIGN_AFTER", timedelta(seconds=0.1))
    write(system)  # type: ignore[arg-type]
    auditor = Auditor()
    auditor.start()
    try:
        assert verifies.wait(10)
        write(system, 3)  # type: ignore[arg-type]
        until(lambda: Checkpoint.objects.order_by("size").last().size == 5)  # type: ignore[union-attr]
        assert not facts_of("audit.checked")
    finally:
        may_end.set()
        auditor.stop(10)
    assert verify().ok


@pytest.mark.parametrize("on_the_page", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_a_check_at_the_end_is_cut_off(
    proofs: KeyFiles, monkeypatch: pytest.MonkeyPatch, read: bool, on_the_page: bool
) -> None:
    verifies, may_go_on = threading.Event(), threading.Event()
    real = checking.verify

    def slow(tell: Any) -> Any:
        result = real(tell) if read else None
        verifies.set()
        may_go_on.wait(20)
        return result or real(tell)

    monkeypatch.setattr(checking, "verify", slow)
    write(system, 3)  # type: ignore[arg-type]
    auditor = Auditor()
    if on_the_page:
        monkeypatch.setattr(Signer, "_is_check_due", lambda *_: False)
    auditor.start()
    if on_the_page:
        until(Checkpoint.objects.exists)
        checking.start(DORA)
    assert verifies.wait(10)
    write(system)  # type: ignore[arg-type]
    ends = threading.Thread(target=auditor.stop, args=(10,))
    ends.start()
    assert checking._ends.wait(10)
    may_go_on.set()
    ends.join(20)
    assert not facts_of("audit.checked")
    assert checking.progress().error == "It was cut off."  # type: ignore[union-attr]
    assert Checkpoint.objects.first().size == LedgerRow.objects.count() == 5  # type: ignore[union-attr]


def test_verifying_runs_once_at_a_time_and_tells_how_far_it_is(
    proofs: KeyFiles, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(clock, 3)
    Signer(clock).sign()
    reads, may_go_on = threading.Event(), threading.Event()
    real = checking.verify

    def slow(tell: Any) -> Any:
        result = real(tell)
        reads.set()
        may_go_on.wait(10)
        return result

    monkeypatch.setattr(checking, "verify", slow)
    assert checking.start(DORA, clock)
    assert reads.wait(10)
    assert not checking.start(DORA, clock)
    running = checking.progress()
    assert running is not None
    assert (running.runs, running.by, running.done, running.total) == (True, "dora", 4, 4)
    assert running.percent == 100
    may_go_on.set()
    until(lambda: not checking.progress().runs)  # type: ignore[union-attr]
    result = checking.progress().result  # type: ignore[union-attr]
    assert result is not None
    assert result.ok
    assert AuditEntry.objects.get(kind="audit.checked").actor == "dora"


def test_a_verification_that_fails_has_ended(
    proofs: KeyFiles, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(tell: Any) -> None:
        raise OSError(5, "the disk is gone", "/a/path")

    monkeypatch.setattr(checking, "verify", breaks)
    ended = checking.run(DORA, clock)
    assert ended is not None
    assert ended == checking.progress()
    assert (ended.runs, ended.result, ended.error) == (
        False,
        None,
        "It could not be read to its end: the disk is gone.",
    )
    monkeypatch.undo()
    write(clock)
    again = checking.run(DORA, clock)
    assert again is not None
    assert again.result is not None


def test_a_check_that_raises_is_an_alarm_and_tried_again_after_a_day(
    signer: Signer, clock: FakeClock, anchors: Path
) -> None:
    write(clock, 3)
    anchors.mkdir()  # a folder is no file of anchors
    signer.begin()
    signer.look()
    clock.pass_time(23 * 3600)
    signer.look()
    why = "It could not be read to its end: Is a directory"
    (checked,) = facts_of("audit.checked")
    assert checked["error"].startswith(why)
    (alarm,) = [text for text in reasons_of("audit.alarm") if "sink" not in text]
    assert alarm.startswith(f"The audit trail could not be verified. {why}")
    assert "The audit trail could not be verified. Audit, Verify says why." in health.problems()
    # Another process, or the next start, knows of it.
    checking.forget()
    Signer(clock).look()
    assert len(facts_of("audit.checked")) == 1
    clock.pass_time(3600)
    signer.look()
    assert len(facts_of("audit.checked")) == 2
    anchors.rmdir()
    clock.pass_time(24 * 3600)
    signer.look()
    signer.look()
    assert facts_of("audit.checked")[-1]["ok"] is True
    assert "could not be verified" not in str(health.problems())


def test_nothing_new_begins_at_the_end(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock, 3)
    checking.end()
    assert not checking.start(DORA, clock)
    assert checking.run(DORA, clock) is None
    assert checking.progress() is None


def test_a_check_that_cannot_even_be_noted_is_not_begun_at_every_look(
    signer: Signer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def breaks(tell: Any) -> None:
        begun.append(clock.now())
        raise ValueError("a hostile row")

    def refuses(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(checking, "verify", breaks)
    monkeypatch.setattr(checking, "note_check_failed", refuses)
    write(clock)
    signer.begin()
    signer.look()
    signer.look()
    assert len(begun) == 1


def test_what_stands_for_the_last_check_and_cannot_be_read_begins_no_new_one(
    signer: Signer, clock: FakeClock
) -> None:
    write(clock)
    signer.begin()
    unseal()
    LedgerRow.objects.filter(pk=AuditEntry.objects.get(kind="audit.checked").seq).update(body="{")
    seal()
    Signer(clock).look()
    assert len(facts_of("audit.alarm")) == 0
    assert AuditEntry.objects.filter(kind="audit.checked").count() == 1
    assert "The audit trail could not be verified. Audit, Verify says why." in (
        health.health(clock).problems
    )


@pytest.mark.parametrize("years", [-1, 1000])
def test_who_writes_only_to_the_database_does_not_put_off_the_next_check(
    signer: Signer, clock: FakeClock, proofs: KeyFiles, years: int
) -> None:
    write(clock)
    signer.begin()
    clock.pass_time(25 * 3600)
    late = clock.now().replace(year=clock.now().year + years)
    AuditEntry.objects.filter(kind="audit.checked").update(at=late)
    assert "not verified for more than a day" in str(health.health(clock).problems)
    checking.forget()
    Signer(clock).look()
    assert len(facts_of("audit.checked")) == 2


@pytest.mark.parametrize("size", [0, 10**9, 2**62])
def test_nor_does_who_changes_the_size_of_a_checkpoint(
    signer: Signer, clock: FakeClock, size: int
) -> None:
    write(clock)
    signer.begin()
    Checkpoint.objects.update(size=size)
    write(clock)
    clock.pass_time(25 * 3600)
    signer.tick()
    signer.look()
    assert len(facts_of("audit.checked")) == 2
    assert facts_of("audit.checked")[-1]["ok"] is False
    assert any("last checkpoint" in text or "older" in text for text in reasons_of("audit.alarm"))


def test_what_stands_only_in_the_columns_silences_no_alarm(
    signer: Signer, clock: FakeClock
) -> None:
    write(clock, 2)
    text = "Something is wrong."
    AuditEntry.objects.filter(seq=2).update(kind="audit.alarm", reason=text)
    assert checkpoints.raise_alarm("seal", text, clock)
    AuditEntry.objects.filter(kind="audit.alarm").update(at=clock.now().replace(year=9000))
    assert not checkpoints.raise_alarm("seal", text, clock)
    clock.pass_time(25 * 3600)
    assert checkpoints.raise_alarm("seal", text, clock)


@pytest.mark.parametrize("at", ["2026-11-23T09:00:00", "0001-01-01T00:00:00+10:00", "soon"])
def test_an_alarm_whose_time_was_changed_keeps_no_other_from_being_given(
    signer: Signer, clock: FakeClock, at: str
) -> None:
    assert checkpoints.raise_alarm("seal", "Something is wrong.", clock)
    clock.pass_time(25 * 3600)
    unseal()
    row = LedgerRow.objects.get()
    told = json.loads(row.body) | {"at": at}
    LedgerRow.objects.update(body=json.dumps(told))
    seal()
    assert checkpoints.raise_alarm("seal", "Something is wrong.", clock)


def test_a_checkpoint_that_waits_since_a_time_to_come_shows(
    signer: Signer, clock: FakeClock
) -> None:
    write(clock)
    signer.begin()
    late = clock.now().replace(year=9000)
    Checkpoint.objects.update(at=late)
    Delivery.objects.update(next_at=late)
    assert "file sink does not take checkpoints" in str(health.health(clock).problems)


@pytest.mark.parametrize(
    ("act", "room", "name", "text"),
    [
        ("sign", checkpoints, "sign", "The audit trail could not be signed."),
        ("tick", checkpoints, "is_due", "The audit trail could not be signed."),
        (
            "start",
            signing.immutability_triggers,
            "reseal",
            "The seals of the database could not be looked at.",
        ),
        ("look", health, "trail", "The audit trail could not be looked after."),
    ],
)
def test_what_nobody_foresaw_is_an_alarm_where_it_lasts(
    signer: Signer,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    act: str,
    room: Any,
    name: str,
    text: str,
) -> None:
    def breaks(*_: Any) -> None:
        raise RuntimeError("a hostile row")

    monkeypatch.setattr(room, name, breaks)
    write(clock)
    for alarms in (0, 0, 1, 1):
        with pytest.raises(RuntimeError):
            getattr(signer, act)()
        assert reasons_of("audit.alarm") == [f"{text} RuntimeError: a hostile row."] * alarms
    if act == "look":
        assert health.problems() == (health.UNKNOWN,)


def test_a_trail_that_nobody_verifies_any_more_shows(signer: Signer, clock: FakeClock) -> None:
    said = "The whole audit trail was not verified for more than a day."
    write(clock)
    signer.sign()  # and no check follows
    assert said not in health.health(clock).problems
    clock.pass_time(26 * 3600)
    assert said in health.health(clock).problems
    signer.look()
    assert said not in health.health(clock).problems
    clock.pass_time(26 * 3600)
    assert said in health.health(clock).problems


def test_what_was_delivered_long_ago_is_forgotten(signer: Signer, clock: FakeClock) -> None:
    write(clock)
    signer.sign()
    claimed = deliveries.claim(FILE, clock)
    assert claimed is not None
    deliveries.delivered(claimed, clock)
    deliveries.forget_delivered(clock)
    assert Delivery.objects.count() == 1
    clock.pass_time(31 * 24 * 3600)
    deliveries.forget_delivered(clock)
    assert Delivery.objects.count() == 0


@pytest.mark.skipif(connection.vendor != "sqlite", reason="of SQLite's plans")
def test_how_sinks_stand_is_told_without_reading_what_has_arrived(
    proofs: KeyFiles, clock: FakeClock
) -> None:
    with CaptureQueriesContext(connection) as asked:
        health.health(clock)
    questions = [q["sql"] for q in asked.captured_queries if "switcher_delivery" in q["sql"]]
    assert len(questions) == 2  # what waits; and of the one sink the newest that has arrived
    plan = ""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {questions[0]}")
        plan = " ".join(row[3] for row in cursor.fetchall())
    assert "delivery_due" in plan, plan
    assert questions[1].endswith('ORDER BY "switcher_delivery"."id" DESC LIMIT 1')
