"""The background work on the trail: it signs, delivers and verifies, and raises alarms."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from switcher.audit import (
    checkpoints,
    deliveries,
    health,
    immutability_triggers,
    verification,
)
from switcher.audit import signer as signing
from switcher.audit.alarms import raise_alarm
from switcher.audit.deliveries import Deliverer, NotDelivered
from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.audit.paths import FILE, WEBHOOK, Sink
from switcher.audit.signer import AuditLoops, Upkeep
from switcher.audit.signing_keys import KeyFiles, new_key
from switcher.audit.verification import verify
from switcher.audit.verifier.switchboard_verify import read_anchors
from switcher.domain.clock import system
from switcher.models import AuditEntry, Checkpoint, CheckpointDelivery, LedgerRow
from tests.audit.conftest import DORA, Background, write
from tests.clocks import FakeClock
from tests.records.conftest import at_once
from tests.until import PATIENCE_S, until

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
def background(proofs: KeyFiles, clock: FakeClock) -> Background:
    return Background(clock)


# --- signing and checking ----------------------------------------------------------------------


def test_a_start_signs_what_was_left_and_verifies_the_whole_trail(
    background: Background, clock: FakeClock
) -> None:
    write(clock, 5)
    background.begin()
    assert Checkpoint.objects.get().size == 6
    (checked,) = facts_of("audit.checked")
    assert checked["verdicts"] == {"intact": True, "anchored": True, "complete": True}
    assert (checked["ok"], checked["entries"], checked["bad_seq"]) == (True, 6, None)


def test_the_whole_trail_is_verified_once_a_day(background: Background, clock: FakeClock) -> None:
    write(clock, 5)
    background.begin()
    clock.pass_time(23 * 3600)
    background.upkeep()
    assert len(facts_of("audit.checked")) == 1
    clock.pass_time(3600)
    background.upkeep()
    assert len(facts_of("audit.checked")) == 2


def test_a_verdict_that_does_not_hold_is_an_alarm_everywhere(
    background: Background, clock: FakeClock, anchors: Path
) -> None:
    write(clock, 9)
    background.begin()
    Deliverer(Sink(FILE, str(anchors)), clock).tick()
    drop_triggers()
    LedgerRow.objects.filter(seq=4).update(body="{}")
    make_triggers()
    clock.pass_time(25 * 3600)
    background.upkeep()
    found = facts_of("audit.checked")[-1]
    assert (found["ok"], found["bad_seq"], found["verdicts"]["intact"]) == (False, 4, False)
    assert reasons_of("audit.alarm") == ["The audit trail does not verify: Entry 4 was changed."]
    background.upkeep()
    said = "The audit trail is not intact. First bad entry: 4."
    assert said in health.problems()
    assert said in health.health(clock).to_json()["problems"]


def test_a_broken_trail_is_an_alarm_and_is_not_signed(
    background: Background, clock: FakeClock
) -> None:
    write(clock, 5)
    background.begin()
    write(clock, 3)
    drop_triggers()
    LedgerRow.objects.filter(seq=9).update(body="{}")
    make_triggers()
    before = Checkpoint.objects.count()
    background.sign()
    background.sign()
    assert Checkpoint.objects.count() == before
    assert reasons_of("audit.alarm") == ["Entry 9 was changed."]


def test_an_exchanged_key_is_an_alarm_everywhere(
    background: Background, clock: FakeClock, proofs: KeyFiles
) -> None:
    write(clock)
    background.begin()
    proofs.private.unlink()
    proofs._write_key(proofs.private, new_key(proofs.name))
    write(clock)
    background.sign()
    background.upkeep()
    (alarm,) = reasons_of("audit.alarm")
    assert "exchanged without a rotation" in alarm
    assert alarm in health.problems()
    answer = health.health(clock).to_json()
    assert (answer["ok"], answer["audit"]["key"]) == (False, "unusable")
    assert str(proofs.private.parent) not in json.dumps(answer)


def test_a_missing_trigger_is_made_again_at_the_start_and_recorded(
    background: Background, clock: FakeClock
) -> None:
    background.begin()
    assert facts_of("audit.seal-remade") == []
    name = "sealed_entry_update" if connection.vendor == "sqlite" else "sealed_entry"
    with connection.cursor() as cursor:
        on = "" if connection.vendor == "sqlite" else " ON switcher_ledgerrow"
        cursor.execute(f"DROP TRIGGER {name}{on}")
    Background(clock).begin()
    assert facts_of("audit.seal-remade") == [{"seals": [name]}]
    with pytest.raises(Exception, match="sealed"):
        LedgerRow.objects.update(body="{}")


def test_a_trigger_that_goes_missing_later_is_made_again_too(
    background: Background, clock: FakeClock
) -> None:
    background.begin()
    drop_triggers()
    background.upkeep()
    assert len(facts_of("audit.seal-remade")[0]["seals"]) >= 5
    assert health.health(clock).triggers == ()


# --- delivering ------------------------------------------------------------------------------


def test_checkpoints_arrive_in_order(
    background: Background, clock: FakeClock, anchors: Path
) -> None:
    for _ in range(3):
        write(clock, 2)
        background.sign()
    assert Deliverer(Sink(FILE, str(anchors)), clock).tick() is None
    notes = list(read_anchors(anchors.read_text().splitlines()))
    assert notes == [c.note for c in Checkpoint.objects.order_by("size")]
    assert not CheckpointDelivery.objects.filter(delivered_at=None).exists()


def test_each_checkpoint_arrives_once_if_several_processes_deliver(
    background: Background, clock: FakeClock, anchors: Path
) -> None:
    for _ in range(5):
        write(clock, 2)
        background.sign()
    deliverers = [Deliverer(Sink(FILE, str(anchors)), clock) for _ in range(4)]
    results = at_once(*[deliverer.tick for deliverer in deliverers])
    assert not [r for r in results if isinstance(r, Exception)]
    notes = list(read_anchors(anchors.read_text().splitlines()))
    assert sorted(notes) == sorted(c.note for c in Checkpoint.objects.all())


def test_the_claim_of_a_dead_process_expires(background: Background, clock: FakeClock) -> None:
    write(clock)
    background.sign()
    assert deliveries.claim(FILE, clock) is not None
    assert deliveries.claim(FILE, clock) is None
    clock.pass_time(deliveries.CLAIM_S)
    assert deliveries.claim(FILE, clock) is not None


def test_a_dead_sink_is_tried_less_and_less_often_and_gets_everything_once_it_is_back(
    background: Background, clock: FakeClock, anchors: Path
) -> None:
    write(clock)
    background.sign()
    anchors.mkdir()  # no line can be appended to a directory
    deliverer = Deliverer(Sink(FILE, str(anchors)), clock)
    waits = []
    for _ in range(8):
        waits.append(deliverer.tick())
        clock.pass_time(waits[-1])
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    write(clock)
    background.sign()
    anchors.rmdir()
    assert deliverer.tick() is None
    assert len(list(read_anchors(anchors.read_text().splitlines()))) == 2
    assert health.health(clock).problems == ()


def test_a_dead_sink_shows_on_the_page_in_health_and_as_one_entry(
    background: Background, clock: FakeClock, anchors: Path
) -> None:
    write(clock)
    background.begin()
    anchors.mkdir()
    Deliverer(Sink(FILE, str(anchors)), clock).tick()
    background.upkeep()
    background.upkeep()
    said = (
        "The file sink does not take checkpoints: Is a directory. Not delivered yet: 1 checkpoint."
    )
    assert health.problems() == (said,)
    answer = health.health(clock).to_json()
    assert answer["problems"] == [said]
    assert answer["audit"]["sinks"][0]["ok"] is False
    assert reasons_of("audit.alarm") == ["The file sink does not take checkpoints."]


def test_a_sink_that_hangs_shows_before_it_has_failed(
    background: Background, clock: FakeClock, settings: Any
) -> None:
    settings.SWITCHER_AUDIT_WEBHOOK = "http://127.0.0.1:9/"
    write(clock)
    background.begin()
    assert deliveries.claim(WEBHOOK, clock) is not None  # and no answer comes
    clock.pass_time(31)
    assert any("webhook sink" in text for text in health.health(clock).problems)


def test_unsigned_entries_show(db: None, proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock, 2)
    clock.pass_time(80)
    assert health.health(clock).problems == ("2 audit entries are not signed yet.",)


# --- as it runs ------------------------------------------------------------------------------


def test_the_loops_sign_and_deliver_while_a_sink_hangs(
    proofs: KeyFiles, anchors: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook hangs meanwhile: it holds up neither the file nor the signing."""
    hangs, may_end = threading.Event(), threading.Event()
    real = deliveries.send

    def send(sink: Sink, note: str) -> None:
        if sink.name == WEBHOOK:
            hangs.set()
            may_end.wait(PATIENCE_S)
            raise NotDelivered("no answer in time")
        real(sink, note)

    monkeypatch.setattr(deliveries, "send", send)
    monkeypatch.setattr(signing, "INTERVAL_S", 0.05)
    settings.SWITCHER_AUDIT_WEBHOOK = "http://127.0.0.1:9/"
    write(system, 3)  # type: ignore[arg-type]
    loops = AuditLoops()
    loops.start()
    try:
        until(anchors.exists)
        assert hangs.wait(PATIENCE_S)
        until(lambda: facts_of("audit.checked"))
        write(system, 3)  # type: ignore[arg-type]
        may_end.set()
        until(
            lambda: CheckpointDelivery.objects.filter(
                sink=WEBHOOK, error="no answer in time"
            ).exists()
        )
    finally:
        may_end.set()
        loops.stop(PATIENCE_S)
    # The end signs what was left, and the file has it.
    assert Checkpoint.objects.first().size == LedgerRow.objects.count()  # type: ignore[union-attr]
    notes = list(read_anchors(anchors.read_text().splitlines()))
    assert notes[-1] == Checkpoint.objects.first().note  # type: ignore[union-attr]
    assert verify().ok


def test_signing_goes_on_while_the_whole_trail_is_verified(
    proofs: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifies, may_end = threading.Event(), threading.Event()
    real = verification.verify

    def slow(on_progress: Any) -> Any:
        verifies.set()
        may_end.wait(PATIENCE_S)
        return real(on_progress)

    monkeypatch.setattr(verification, "verify", slow)
    monkeypatch.setattr(signing, "INTERVAL_S", 0.05)
    monkeypatch.setattr(checkpoints, "SIGN_AFTER", timedelta(seconds=0.1))
    write(system)  # type: ignore[arg-type]
    loops = AuditLoops()
    loops.start()
    try:
        assert verifies.wait(PATIENCE_S)
        write(system, 3)  # type: ignore[arg-type]
        until(lambda: Checkpoint.objects.order_by("size").last().size == 5)  # type: ignore[union-attr]
        assert not facts_of("audit.checked")
    finally:
        may_end.set()
        loops.stop(PATIENCE_S)
    assert verify().ok


@pytest.mark.parametrize("on_the_page", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_a_verification_is_cut_off_when_the_process_ends(
    proofs: KeyFiles, monkeypatch: pytest.MonkeyPatch, read: bool, on_the_page: bool
) -> None:
    verifies, may_go_on = threading.Event(), threading.Event()
    real = verification.verify

    def slow(on_progress: Any) -> Any:
        result = real(on_progress) if read else None
        verifies.set()
        may_go_on.wait(PATIENCE_S)
        return result or real(on_progress)

    monkeypatch.setattr(verification, "verify", slow)
    write(system, 3)  # type: ignore[arg-type]
    loops = AuditLoops()
    if on_the_page:
        monkeypatch.setattr(Upkeep, "_verify_daily", lambda *_: None)
    loops.start()
    if on_the_page:
        until(Checkpoint.objects.exists)
        verification.start(DORA)
    assert verifies.wait(PATIENCE_S)
    write(system)  # type: ignore[arg-type]
    ends = threading.Thread(target=loops.stop, args=(10,))
    ends.start()
    assert verification._ending.wait(PATIENCE_S)
    may_go_on.set()
    ends.join(PATIENCE_S)
    assert not facts_of("audit.checked")
    assert verification.progress().error == "It was cut off."  # type: ignore[union-attr]
    assert Checkpoint.objects.first().size == LedgerRow.objects.count() == 5  # type: ignore[union-attr]


def test_one_verification_runs_at_a_time_and_reports_its_progress(
    proofs: KeyFiles, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(clock, 3)
    Background(clock).sign()
    reads, may_go_on = threading.Event(), threading.Event()
    real = verification.verify

    def slow(on_progress: Any) -> Any:
        result = real(on_progress)
        reads.set()
        may_go_on.wait(PATIENCE_S)
        return result

    monkeypatch.setattr(verification, "verify", slow)
    assert verification.start(DORA, clock)
    assert reads.wait(PATIENCE_S)
    assert not verification.start(DORA, clock)
    running = verification.progress()
    assert running is not None
    assert (running.runs, running.by, running.done, running.total) == (True, "dora", 4, 4)
    assert running.percent == 100
    may_go_on.set()
    until(lambda: not verification.progress().runs)  # type: ignore[union-attr]
    result = verification.progress().result  # type: ignore[union-attr]
    assert result is not None
    assert result.ok
    assert AuditEntry.objects.get(kind="audit.checked").actor == "dora"


def test_a_verification_that_fails_has_ended(
    proofs: KeyFiles, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(on_progress: Any) -> None:
        raise OSError(5, "the disk is gone", "/a/path")

    monkeypatch.setattr(verification, "verify", breaks)
    ended = verification.run(DORA, clock)
    assert ended is not None
    assert ended == verification.progress()
    assert (ended.runs, ended.result, ended.error) == (
        False,
        None,
        "It could not be read to its end: the disk is gone.",
    )
    monkeypatch.undo()
    write(clock)
    again = verification.run(DORA, clock)
    assert again is not None
    assert again.result is not None


def test_a_failed_verification_is_an_alarm_and_is_tried_again_after_a_day(
    background: Background, clock: FakeClock, anchors: Path
) -> None:
    write(clock, 3)
    anchors.mkdir()  # a folder is no file of anchors
    background.begin()
    background.upkeep()
    clock.pass_time(23 * 3600)
    background.upkeep()
    why = "It could not be read to its end: Is a directory"
    (checked,) = facts_of("audit.checked")
    assert checked["error"].startswith(why)
    (alarm,) = [text for text in reasons_of("audit.alarm") if "sink" not in text]
    assert alarm.startswith(f"The audit trail could not be verified. {why}")
    assert "The audit trail could not be verified. Audit, Verify says why." in health.problems()
    # Another process, or the next start, knows of it.
    verification.forget()
    Background(clock).upkeep()
    assert len(facts_of("audit.checked")) == 1
    clock.pass_time(3600)
    background.upkeep()
    assert len(facts_of("audit.checked")) == 2
    anchors.rmdir()
    clock.pass_time(24 * 3600)
    background.upkeep()
    background.upkeep()
    assert facts_of("audit.checked")[-1]["ok"] is True
    assert "could not be verified" not in str(health.problems())


def test_no_verification_begins_when_the_process_ends(proofs: KeyFiles, clock: FakeClock) -> None:
    write(clock, 3)
    verification.end()
    assert not verification.start(DORA, clock)
    assert verification.run(DORA, clock) is None
    assert verification.progress() is None


def test_a_verification_that_cannot_even_be_recorded_waits_a_day_too(
    background: Background, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def breaks(on_progress: Any) -> None:
        begun.append(clock.now())
        raise ValueError("a hostile row")

    def refuses(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(verification, "verify", breaks)
    monkeypatch.setattr(verification, "append", refuses)
    write(clock)
    background.begin()
    background.upkeep()
    background.upkeep()
    assert len(begun) == 1


def test_an_unreadable_result_is_no_reason_to_verify_again(
    background: Background, clock: FakeClock
) -> None:
    write(clock)
    background.begin()
    drop_triggers()
    LedgerRow.objects.filter(pk=AuditEntry.objects.get(kind="audit.checked").seq).update(body="{")
    make_triggers()
    Background(clock).upkeep()
    assert len(facts_of("audit.alarm")) == 0
    assert AuditEntry.objects.filter(kind="audit.checked").count() == 1
    assert "The audit trail could not be verified. Audit, Verify says why." in (
        health.health(clock).problems
    )


@pytest.mark.parametrize("years", [-1, 1000])
def test_a_change_of_the_database_does_not_put_off_the_next_verification(
    background: Background, clock: FakeClock, proofs: KeyFiles, years: int
) -> None:
    write(clock)
    background.begin()
    clock.pass_time(25 * 3600)
    late = clock.now().replace(year=clock.now().year + years)
    AuditEntry.objects.filter(kind="audit.checked").update(at=late)
    assert "not verified for more than a day" in str(health.health(clock).problems)
    verification.forget()
    Background(clock).upkeep()
    assert len(facts_of("audit.checked")) == 2


@pytest.mark.parametrize("size", [0, 10**9, 2**62])
def test_a_changed_size_of_a_checkpoint_does_not_put_it_off_either(
    background: Background, clock: FakeClock, size: int
) -> None:
    write(clock)
    background.begin()
    Checkpoint.objects.update(size=size)
    write(clock)
    clock.pass_time(25 * 3600)
    background.sign_if_due()
    background.upkeep()
    assert len(facts_of("audit.checked")) == 2
    assert facts_of("audit.checked")[-1]["ok"] is False
    assert any("last checkpoint" in text or "older" in text for text in reasons_of("audit.alarm"))


def test_a_change_of_the_index_silences_no_alarm(background: Background, clock: FakeClock) -> None:
    write(clock, 2)
    text = "Something is wrong."
    AuditEntry.objects.filter(seq=2).update(kind="audit.alarm", reason=text)
    assert raise_alarm("seal", text, clock)
    AuditEntry.objects.filter(kind="audit.alarm").update(at=clock.now().replace(year=9000))
    assert not raise_alarm("seal", text, clock)
    clock.pass_time(25 * 3600)
    assert raise_alarm("seal", text, clock)


@pytest.mark.parametrize("at", ["2026-11-23T09:00:00", "0001-01-01T00:00:00+10:00", "soon"])
def test_an_alarm_whose_time_was_changed_silences_no_later_one(
    background: Background, clock: FakeClock, at: str
) -> None:
    assert raise_alarm("seal", "Something is wrong.", clock)
    clock.pass_time(25 * 3600)
    drop_triggers()
    row = LedgerRow.objects.get()
    answer = json.loads(row.body) | {"at": at}
    LedgerRow.objects.update(body=json.dumps(answer))
    make_triggers()
    assert raise_alarm("seal", "Something is wrong.", clock)


def test_a_delivery_that_waits_since_a_time_in_the_future_shows(
    background: Background, clock: FakeClock
) -> None:
    write(clock)
    background.begin()
    late = clock.now().replace(year=9000)
    Checkpoint.objects.update(at=late)
    CheckpointDelivery.objects.update(next_at=late)
    assert "file sink does not take checkpoints" in str(health.health(clock).problems)


@pytest.mark.parametrize(
    ("act", "module", "name", "text"),
    [
        ("sign", checkpoints, "sign", "The audit trail could not be signed."),
        (
            "sign_if_due",
            immutability_triggers,
            "remake",
            "The triggers of the database could not be checked.",
        ),
        ("upkeep", health, "trail_status", "The upkeep of the audit trail failed."),
    ],
)
def test_an_unexpected_error_is_an_alarm_if_it_lasts(
    background: Background,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    act: str,
    module: Any,
    name: str,
    text: str,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a hostile row")

    monkeypatch.setattr(module, name, fail)
    write(clock)
    for alarms in (0, 0, 1, 1):
        with pytest.raises(RuntimeError):
            getattr(background, act)()
        assert reasons_of("audit.alarm") == [f"{text} RuntimeError: a hostile row."] * alarms
    if act == "upkeep":
        assert health.problems() == (health.UNKNOWN,)


def test_an_error_in_finding_out_what_is_due_is_an_alarm_if_it_lasts(
    background: Background, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a hostile row")

    write(clock)
    background.sign_if_due()
    monkeypatch.setattr(checkpoints, "is_due", fail)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            background.sign_if_due()
    assert reasons_of("audit.alarm") == [
        "The audit trail could not be signed. RuntimeError: a hostile row."
    ]


def test_a_trail_that_is_no_longer_verified_shows(background: Background, clock: FakeClock) -> None:
    said = "The whole audit trail was not verified for more than a day."
    write(clock)
    background.sign()  # and no check follows
    assert said not in health.health(clock).problems
    clock.pass_time(26 * 3600)
    assert said in health.health(clock).problems
    background.upkeep()
    assert said not in health.health(clock).problems
    clock.pass_time(26 * 3600)
    assert said in health.health(clock).problems


def test_old_deliveries_are_deleted(background: Background, clock: FakeClock) -> None:
    write(clock)
    background.sign()
    claimed = deliveries.claim(FILE, clock)
    assert claimed is not None
    deliveries.mark_delivered(claimed, clock)
    deliveries.forget_delivered(clock)
    assert CheckpointDelivery.objects.count() == 1
    clock.pass_time(31 * 24 * 3600)
    deliveries.forget_delivered(clock)
    assert CheckpointDelivery.objects.count() == 0


@pytest.mark.skipif(connection.vendor != "sqlite", reason="of SQLite's plans")
def test_the_state_of_sinks_is_read_without_reading_what_has_arrived(
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
