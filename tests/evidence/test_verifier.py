"""The verifier by itself: trees, proofs, signed notes, and what each kind of damage is called."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from switcher.evidence.switchboard_verify import (
    GENESIS,
    BadNote,
    Checkpoint,
    Entry,
    PublicKey,
    Report,
    Tree,
    Verifier,
    checkpoint_text,
    fold,
    leaf,
    node,
    read_note,
    signature_line,
)

AT = "2026-11-23T09:00:00.{:06}Z"


def body(seq: int, text: str = "") -> str:
    return f'{{"actor":"anna","at":"{AT.format(seq)}","facts":{{"x":"{text}"}},"seq":{seq},"v":1}}'


def chain(count: int, text: str = "") -> list[Entry]:
    rows, prev = [], GENESIS
    for seq in range(1, count + 1):
        told = body(seq, text)
        rows.append(Entry(seq, told, prev, leaf(prev, told)))
        prev = rows[-1].hash
    return rows


def root(rows: list[Entry]) -> bytes:
    tree = Tree()
    for row in rows:
        tree.add(row.hash)
    return tree.root()


def slow_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node(slow_root(leaves[:k]), slow_root(leaves[k:]))


def slow_proof(leaves: list[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*slow_proof(leaves[:k], index), slow_root(leaves[k:])]
    return [*slow_proof(leaves[k:], index - k), slow_root(leaves[:k])]


def verify(rows: list[Entry], *checkpoints: Checkpoint) -> Report:
    verifier = Verifier()
    for checkpoint in checkpoints:
        verifier.expect(checkpoint)
    for row in rows:
        verifier.add(row)
    return verifier.report()


def over(rows: list[Entry]) -> Checkpoint:
    return Checkpoint("switchboard", len(rows), root(rows), b"key!")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 33])
def test_the_root_is_that_of_rfc_6962(count: int) -> None:
    rows = chain(count)
    assert root(rows) == slow_root([r.hash for r in rows])


def test_an_inclusion_proof_leads_to_the_root_and_no_other_does() -> None:
    for count in (1, 2, 3, 6, 7, 8, 13):
        leaves = [r.hash for r in chain(count)]
        for index, entry_hash in enumerate(leaves):
            proof = slow_proof(leaves, index)
            assert fold(entry_hash, index, count, proof) == slow_root(leaves)
            with pytest.raises(ValueError, match="too long"):
                fold(entry_hash, index, count, [*proof, GENESIS])
            if proof:
                with pytest.raises(ValueError, match="too short"):
                    fold(entry_hash, index, count, proof[:-1])
                assert fold(entry_hash, index, count, [GENESIS, *proof[1:]]) != slow_root(leaves)


def test_a_tree_is_kept_as_text() -> None:
    tree = Tree()
    for row in chain(13):
        tree.add(row.hash)
    assert Tree.from_text(tree.to_text()) == tree
    with pytest.raises(ValueError, match="not a tree"):
        Tree.from_text("3:" + "00" * 32)


def test_what_was_not_touched_is_intact_anchored_and_complete() -> None:
    rows = chain(20)
    report = verify(rows, over(rows[:7]), over(rows))
    assert (report.ok, report.entries, report.checkpoints, report.bad_seq) == (True, 20, 2, None)
    assert report.root == root(rows).hex()


@pytest.mark.parametrize("at", [1, 7, 20])
def test_a_changed_body_is_named_by_its_number(at: int) -> None:
    rows = chain(20)
    rows[at - 1] = replace(rows[at - 1], body=body(at, "x"))
    report = verify(rows, over(chain(20)))
    assert (report.intact, report.bad_seq) == (False, at)


@pytest.mark.parametrize("field", ["prev", "hash"])
def test_a_changed_hash_is_named(field: str) -> None:
    rows = chain(20)
    rows[6] = replace(rows[6], **{field: b"\1" * 32})
    report = verify(rows, over(chain(20)))
    assert not report.intact
    assert report.bad_seq == 7


def test_a_missing_entry_is_named() -> None:
    rows = chain(20)
    report = verify(rows[:6] + rows[7:], over(rows))
    assert (report.intact, report.complete, report.bad_seq) == (False, False, 7)


def test_a_chain_computed_anew_is_not_what_was_signed() -> None:
    rows = chain(20)
    report = verify(chain(20, "other"), over(rows[:7]), over(rows))
    assert (report.intact, report.anchored, report.complete) == (True, False, True)


def test_a_tail_that_was_cut_off_is_missed_by_a_checkpoint() -> None:
    rows = chain(20)
    report = verify(rows[:12], over(rows))
    assert (report.intact, report.complete, report.bad_seq) == (True, False, 13)


def test_without_any_checkpoint_nothing_is_anchored() -> None:
    assert not verify(chain(3)).anchored


def test_a_clock_that_went_back_is_told_and_is_no_damage() -> None:
    rows, prev = [], GENESIS
    for seq, moment in enumerate((5, 3, 6), 1):
        told = body(seq).replace(AT.format(seq), AT.format(moment))
        rows.append(Entry(seq, told, prev, leaf(prev, told)))
        prev = rows[-1].hash
    report = verify(rows, over(rows))
    assert report.ok
    assert report.warnings == [
        f"The clock went back at entry 2: {AT.format(3)} after {AT.format(5)}."
    ]


def test_a_number_inside_of_the_facts_is_not_taken_for_the_entrys() -> None:
    told = body(1, '\\"seq\\":2,').replace('"facts":{', '"facts":{"seq":7,')
    rows = [Entry(1, told, GENESIS, leaf(GENESIS, told))]
    assert verify(rows, over(rows)).ok
    wrong = body(2)
    rows = [Entry(1, wrong, GENESIS, leaf(GENESIS, wrong))]
    assert verify(rows, over(rows)).problems == ["Entry 1 says another number."]


class TestNotes:
    private = Ed25519PrivateKey.generate()
    key = PublicKey("switchboard", private.public_key().public_bytes_raw())
    text = checkpoint_text("switchboard", 7, b"\7" * 32)
    note = text + "\n" + signature_line(key, private.sign(text.encode()))

    def test_a_signed_note_is_read(self) -> None:
        assert read_note(self.note, [self.key]) == Checkpoint(
            "switchboard", 7, b"\7" * 32, self.key.id
        )

    def test_a_key_is_written_and_read(self) -> None:
        assert PublicKey.from_text(str(self.key)) == self.key

    def test_every_changed_character_is_refused(self) -> None:
        for at in range(len(self.note) - 1):
            changed = self.note[:at] + ("A" if self.note[at] != "A" else "B") + self.note[at + 1 :]
            with pytest.raises(BadNote):
                read_note(changed, [self.key])

    def test_another_key_is_not_believed(self) -> None:
        other = PublicKey(
            "switchboard", Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        )
        with pytest.raises(BadNote, match="none of the known keys"):
            read_note(self.note, [other])
