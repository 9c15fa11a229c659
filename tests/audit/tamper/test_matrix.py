"""The tamper matrix: what an attacker does to the trail, and the verdicts then.

There are twelve entries. Checkpoints over five and over nine were signed and have left the machine.
The attacker has the database's password and drops the triggers first. Entries 10 to 12 are newer
than the last checkpoint: what is not seen there is the limit (docs/audit.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from switcher.audit import checkpoints
from switcher.audit.export import JSONL, begin
from switcher.audit.filters import Filters
from switcher.audit.signing_keys import KeyFiles, KeyRefused
from switcher.audit.verification import verify
from switcher.audit.verifier.switchboard_verify import (
    PublicKey,
    Report,
    read_anchors,
)
from switcher.models import AuditEntry, Checkpoint
from tests.audit.conftest import Entry, verify_export
from tests.audit.tamper.attacker import (
    ANNA,
    TABLE,
    Attacker,
    as_mallory,
    export,
    sign_and_anchor,
    write,
)
from tests.clocks import FakeClock

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

Attack = Callable[[Attacker], object]
SIGNED, LAST = 9, 12


@dataclass(frozen=True)
class Verdicts:
    """What is expected; `bad` is the first bad entry."""

    intact: bool = True
    anchored: bool = True
    complete: bool = True
    bad: int | None = None


HOLDS = Verdicts()


def verdicts(report: Report) -> Verdicts:
    return Verdicts(report.intact, report.anchored, report.complete, report.bad_seq)


def test_an_unchanged_trail_verifies(trail: KeyFiles) -> None:
    report = verify(index=True).report
    assert (verdicts(report), report.entries, report.problems) == (HOLDS, LAST, [])
    assert (report.checkpoints, report.last_checkpoint) == (2, SIGNED)
    assert verify(index=True).index_differs == 0


# --- single rows -----------------------------------------------------------------------------


@pytest.mark.parametrize("seq", range(1, LAST + 1))
@pytest.mark.parametrize("field", ["body", "prev", "hash", "seq"])
def test_an_edit_of_any_field_of_any_entry_is_seen(
    attacker: Attacker, field: str, seq: int
) -> None:
    row = attacker.rows()[seq - 1]
    value = {"body": f"{row.body} ", "seq": seq + 100}.get(field, b"\7" * 32)
    attacker.set(seq, **{field: value})
    found = verify().report
    assert (found.intact, found.bad_seq) == (False, seq)
    # A checkpoint is over the stored hashes: those before it are not what was signed.
    touches_tree = field in {"hash", "seq"} and seq <= SIGNED
    assert found.anchored is not touches_tree
    assert found.complete is (field != "seq")


def test_every_byte_of_a_body_counts(attacker: Attacker) -> None:
    row = attacker.rows()[6]
    raw = row.body.encode()
    for at in range(len(raw)):
        forged = bytearray(raw)
        forged[at] = ord("x") if forged[at] != ord("x") else ord("y")
        attacker.set(7, body=forged.decode())
        found = verify().report
        assert (found.intact, found.bad_seq) == (False, 7), at
    attacker.set(7, body=row.body)
    assert verify().ok


@pytest.mark.both_databases(on=["sqlite"])  # PostgreSQL keeps types and encodings
@pytest.mark.parametrize(
    "change",
    [
        "body = CAST(x'FF00FE' AS TEXT)",
        "body = 5",
        "body = CAST(body AS BLOB) || x'80'",
        "prev = 'text'",
        "hash = 7",
        "seq = 'seven'",
        "seq = 6.5",
    ],
)
def test_what_is_no_text_and_no_number_is_seen_and_does_not_stop_the_verifier(
    attacker: Attacker, change: str
) -> None:
    attacker.sql(f"UPDATE {TABLE} SET {change} WHERE seq = 7")
    found = verify(index=True)
    assert not found.report.intact
    assert found.report.bad_seq is not None
    assert found.report.bad_seq <= 7


# --- the order -------------------------------------------------------------------------------


def swap_bodies(a: Attacker) -> None:
    third, eighth = a.rows()[2], a.rows()[7]
    a.set(3, body=eighth.body)
    a.set(8, body=third.body)


def swap_rows(a: Attacker) -> None:
    a.set(3, seq=99)
    a.set(8, seq=3)
    a.set(99, seq=8)


def shift_up(rows: list[Entry]) -> list[Entry]:
    return [row._replace(seq=row.seq + 1) for row in rows]


def insert_in_the_middle(a: Attacker) -> None:
    rows = a.rows()
    a.put([*rows[:5], as_mallory(rows[5]), *shift_up(rows[5:])])


def insert_and_rechain(a: Attacker) -> None:
    bodies = [row.body for row in a.rows()]
    a.put(a.rechained([*bodies[:5], as_mallory(a.rows()[5]).body, *bodies[5:]]))


def insert_below_the_first(a: Attacker) -> None:
    first = a.rows()[0]
    a.put([first._replace(seq=0), *a.rows()])


def insert_at_the_end(a: Attacker) -> None:
    last = a.rows()[-1]
    a.put([*a.rows(), last._replace(seq=13)])


def append_in_order(a: Attacker) -> None:
    a.put([*a.rows(), *a.rechained([as_mallory(a.rows()[3]).body], first=13)])


def rechain_all(a: Attacker) -> None:
    a.put(a.rechained([as_mallory(row).body for row in a.rows()]))


def rechain_what_is_not_signed(a: Attacker) -> None:
    rows = a.rows()
    a.put([*rows[:SIGNED], *a.rechained([as_mallory(r).body for r in rows[SIGNED:]], SIGNED + 1)])


def rechain_from_inside_the_signed(a: Attacker) -> None:
    rows = a.rows()
    a.put([*rows[:6], *a.rechained([as_mallory(r).body for r in rows[6:]], 7)])


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        pytest.param(lambda a: a.delete(1), Verdicts(False, False, False, 1), id="delete the 1st"),
        pytest.param(lambda a: a.delete(7), Verdicts(False, False, False, 7), id="delete one"),
        pytest.param(
            lambda a: a.delete(9), Verdicts(False, False, False, 9), id="delete the last signed"
        ),
        pytest.param(lambda a: a.delete(12), HOLDS, id="limit: delete the last, not signed yet"),
        pytest.param(swap_bodies, Verdicts(False, True, True, 3), id="swap two bodies"),
        pytest.param(swap_rows, Verdicts(False, False, True, 3), id="swap two rows"),
        pytest.param(insert_in_the_middle, Verdicts(False, False, True, 6), id="insert"),
        pytest.param(insert_and_rechain, Verdicts(True, False, True), id="insert and re-chain"),
        pytest.param(insert_below_the_first, Verdicts(False, False, True, 0), id="insert before"),
        pytest.param(insert_at_the_end, Verdicts(False, True, True, 13), id="insert at the end"),
        pytest.param(append_in_order, HOLDS, id="limit: append, as the server does"),
        pytest.param(rechain_all, Verdicts(True, False, True), id="re-chain all"),
        pytest.param(
            rechain_from_inside_the_signed, Verdicts(True, False, True), id="re-chain a part"
        ),
        pytest.param(rechain_what_is_not_signed, HOLDS, id="limit: re-chain what is not signed"),
    ],
)
def test_the_order_of_entries(attacker: Attacker, attack: Attack, expected: Verdicts) -> None:
    attack(attacker)
    assert verdicts(verify().report) == expected


# --- cutting ---------------------------------------------------------------------------------


def cut(above: int) -> Attack:
    return lambda a: a.delete(*range(above + 1, LAST + 1))


def cut_with_checkpoints(above: int) -> Attack:
    def attack(a: Attacker) -> None:
        cut(above)(a)
        a.forget_checkpoints(above)

    return attack


def cut_with_anchors(above: int) -> Attack:
    def attack(a: Attacker) -> None:
        cut_with_checkpoints(above)(a)
        a.forget_anchors()

    return attack


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        pytest.param(cut(10), HOLDS, id="limit: cut what is not signed"),
        pytest.param(cut(7), Verdicts(complete=False, bad=8), id="cut below a checkpoint"),
        pytest.param(
            cut_with_checkpoints(7), Verdicts(complete=False, bad=8), id="and drop the checkpoint"
        ),
        pytest.param(cut_with_anchors(7), HOLDS, id="limit: and drop the anchor"),
        pytest.param(cut(0), Verdicts(complete=False, bad=1), id="empty"),
        pytest.param(
            cut_with_checkpoints(0), Verdicts(complete=False, bad=1), id="empty, no checkpoint"
        ),
        pytest.param(
            cut_with_anchors(0), Verdicts(anchored=False), id="empty, no checkpoint, no anchor"
        ),
    ],
)
def test_cutting(attacker: Attacker, attack: Attack, expected: Verdicts) -> None:
    attack(attacker)
    assert verdicts(verify().report) == expected


def test_nothing_is_signed_over_a_cut_trail(attacker: Attacker, clock: FakeClock) -> None:
    """Also where the anchors are gone: the key's own file remembers what was signed."""
    cut_with_anchors(7)(attacker)
    with pytest.raises(checkpoints.TrailBroken, match="the database is older, or was cut"):
        checkpoints.sign(clock)


def test_nothing_is_signed_over_a_recomputed_chain(attacker: Attacker, clock: FakeClock) -> None:
    rechain_all(attacker)
    with pytest.raises(checkpoints.TrailBroken, match="up to 9 are not those that were signed"):
        checkpoints.sign(clock)
    attacker.forget_checkpoints()
    with pytest.raises(checkpoints.TrailBroken, match="the database is older, or was cut"):
        checkpoints.sign(clock)


# --- checkpoints and keys --------------------------------------------------------------------


def edit_a_note(a: Attacker) -> None:
    row = Checkpoint.objects.get(size=SIGNED)
    Checkpoint.objects.filter(pk=row.pk).update(note=row.note.replace("\n9\n", "\n8\n"))


def edit_a_root(a: Attacker) -> None:
    other = Checkpoint.objects.get(size=5).note.split("\n")[2]
    row = Checkpoint.objects.get(size=SIGNED)
    mine = row.note.split("\n")[2]
    Checkpoint.objects.filter(pk=row.pk).update(note=row.note.replace(mine, other))


def scribble(a: Attacker) -> None:
    Checkpoint.objects.filter(size=SIGNED).update(note="nothing")


def foreign_key(a: Attacker) -> None:
    """Everything: a chain computed anew, a key of one's own, every checkpoint signed with it."""
    rechain_all(a)
    a.resign(a.take_own_key())


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        pytest.param(edit_a_note, Verdicts(anchored=False), id="edit a checkpoint's size"),
        pytest.param(edit_a_root, Verdicts(anchored=False), id="edit a checkpoint's root"),
        pytest.param(scribble, Verdicts(anchored=False), id="a checkpoint that is none"),
        pytest.param(lambda a: a.forget_checkpoints(), HOLDS, id="drop the stored checkpoints"),
        pytest.param(foreign_key, Verdicts(anchored=False), id="a foreign key signs everything"),
    ],
)
def test_checkpoints_and_keys(attacker: Attacker, attack: Attack, expected: Verdicts) -> None:
    attack(attacker)
    assert verdicts(verify().report) == expected


def test_an_earlier_copy_of_the_key_shows_a_foreign_one_without_any_anchor(
    attacker: Attacker,
) -> None:
    """Files and database in one hand, anchors gone: the server itself sees nothing any more."""
    taken_along = attacker.files.root()
    foreign_key(attacker)
    attacker.forget_anchors()
    assert verify().ok
    assert verdicts(verify_export(export(), taken_along)) == Verdicts(anchored=False)


def test_a_foreign_key_signs_nothing(attacker: Attacker, clock: FakeClock) -> None:
    attacker.take_own_key()
    with pytest.raises(KeyRefused, match="exchanged without a rotation"):
        checkpoints.sign(clock)


# --- time and replay -------------------------------------------------------------------------


def test_a_clock_that_was_set_back_is_only_a_warning(trail: KeyFiles, clock: FakeClock) -> None:
    clock.pass_time(-3600)
    write(2, clock)
    sign_and_anchor(clock)
    found = verify().report
    assert verdicts(found) == HOLDS
    assert [text[:32] for text in found.warnings] == ["The clock went back at entry 13:"]


def test_newer_anchors_show_that_an_export_is_old(trail: KeyFiles, clock: FakeClock) -> None:
    older = export()
    sign_and_anchor(clock)
    kept = trail.private.with_name("anchors.txt").read_text()
    anchors = list(read_anchors(kept.splitlines()))
    assert verdicts(verify_export(export(), trail.root(), anchors)) == HOLDS
    cut_short = verify_export(older[:8], trail.root(), anchors)
    assert verdicts(cut_short) == Verdicts(complete=False, bad=8)


def test_an_old_export_alone_verifies(trail: KeyFiles) -> None:
    """The limit: without anchors nothing tells that there is more."""
    assert verdicts(verify_export(export()[:6], trail.root())) == HOLDS


# --- the index -------------------------------------------------------------------------------


def forge_a_row(a: Attacker) -> None:
    AuditEntry.objects.create(
        seq=77, at=a.clock.now(), kind="test.forged", actor="nobody", host="", reason=""
    )


@pytest.mark.parametrize(
    ("attack", "first"),
    [
        pytest.param({"actor": "mallory"}, 7, id="actor"),
        pytest.param({"kind": "test.other"}, 7, id="kind"),
        pytest.param({"reason": "None"}, 7, id="reason"),
        pytest.param({"host": "south"}, 7, id="host"),
        pytest.param({"model": "other"}, 7, id="model"),
        pytest.param({"outcome": "active"}, 7, id="outcome"),
        pytest.param(forge_a_row, 77, id="a row without an entry"),
        pytest.param(
            lambda a: AuditEntry.objects.filter(seq=7).delete(), 7, id="an entry without a row"
        ),
    ],
)
def test_an_edited_index_is_seen_and_changes_no_verdict(
    attacker: Attacker, attack: Any, first: int
) -> None:
    if callable(attack):
        attack(attacker)
    else:
        AuditEntry.objects.filter(seq=7).update(**attack)
    found = verify(index=True)
    assert verdicts(found.report) == HOLDS
    assert (found.ok, found.index_differs, found.index_first) == (False, 1, (first,))


def test_the_key_for_auditors_is_the_first_one(trail: KeyFiles) -> None:
    text = trail.public.read_text()
    assert [str(key) for key in trail.root()] == text.splitlines()
    assert PublicKey.from_text(text) == trail.root()[0]


@pytest.mark.parametrize("body", ["", "{}", '{"facts":{"old":"x"}}', "[1"])
def test_an_unreadable_rotation_does_not_stop_an_export(
    attacker: Attacker, clock: FakeClock, body: str
) -> None:
    checkpoints.rotate_key(ANNA, clock)
    seq = AuditEntry.objects.get(kind="audit.key-rotated").seq
    attacker.set(seq, body=body)
    job = begin(JSONL, Filters(actor="anna"), ANNA, clock)
    lines = b"".join(chunk.data for chunk in job.chunks).decode().splitlines()
    assert sum('"type":"entry"' in line for line in lines) >= 8
    assert verify().report.intact is False
