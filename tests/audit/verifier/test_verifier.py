"""The verifier by itself: trees, proofs, signed notes, and the name of each kind of damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from switcher.audit.signing_keys import SigningKey, new_key
from switcher.audit.verifier.switchboard_verify import (
    GENESIS,
    BadNote,
    PublicKey,
    Report,
    Rotation,
    Tree,
    Verifier,
    checkpoint_text,
    fold,
    leaf,
    main,
    node,
    read_anchors,
    read_keys,
    read_note,
    signature_line,
)
from tests.audit.conftest import Entry, verify_export

Ran = tuple[int, str]
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
    tree.extend([row.hash for row in rows])
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


KEY = new_key("switchboard")


def over(rows: list[Entry], key: SigningKey = KEY) -> str:
    """Return a signed checkpoint over these entries."""
    return key.checkpoint(len(rows), root(rows))


def verify(rows: list[Entry], *notes: str, key: SigningKey = KEY) -> Report:
    verifier = Verifier(keys=[key.public])
    for note in notes:
        verifier.expect(note)
    verifier.add(rows)
    return verifier.report()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 33])
def test_the_root_is_that_of_rfc_6962(count: int) -> None:
    rows = chain(count)
    assert root(rows) == slow_root([r.hash for r in rows])


def test_only_the_right_inclusion_proof_leads_to_the_root() -> None:
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


def test_a_tree_is_written_as_text_and_read_again() -> None:
    tree = Tree()
    for row in chain(13):
        tree.extend([row.hash])
    assert Tree.from_text(tree.to_text()) == tree
    with pytest.raises(ValueError, match="not a tree"):
        Tree.from_text("3:" + "00" * 32)


def test_an_unchanged_trail_is_intact_anchored_and_complete() -> None:
    rows = chain(20)
    report = verify(rows, over(rows[:7]), over(rows))
    assert (report.ok, report.entries, report.checkpoints, report.bad_seq) == (True, 20, 2, None)
    assert report.root == root(rows).hex()


@pytest.mark.parametrize("at", [1, 7, 20])
def test_a_changed_body_is_reported_with_its_number(at: int) -> None:
    rows = chain(20)
    rows[at - 1] = rows[at - 1]._replace(body=body(at, "x"))
    report = verify(rows, over(chain(20)))
    assert (report.intact, report.bad_seq) == (False, at)


@pytest.mark.parametrize("field", ["prev", "hash"])
def test_a_changed_hash_is_reported(field: str) -> None:
    rows = chain(20)
    rows[6] = rows[6]._replace(**{field: b"\1" * 32})
    report = verify(rows, over(chain(20)))
    assert not report.intact
    assert report.bad_seq == 7


def test_a_missing_entry_is_reported() -> None:
    rows = chain(20)
    report = verify(rows[:6] + rows[7:], over(rows))
    assert (report.intact, report.complete, report.bad_seq) == (False, False, 7)


def test_a_recomputed_chain_is_not_anchored() -> None:
    rows = chain(20)
    report = verify(chain(20, "other"), over(rows[:7]), over(rows))
    assert (report.intact, report.anchored, report.complete) == (True, False, True)


def test_a_checkpoint_shows_that_the_tail_was_cut_off() -> None:
    rows = chain(20)
    report = verify(rows[:12], over(rows))
    assert (report.intact, report.complete, report.bad_seq) == (True, False, 13)


def test_nothing_is_anchored_without_a_checkpoint() -> None:
    assert not verify(chain(3)).anchored


def test_a_clock_that_went_back_is_only_a_warning() -> None:
    rows, prev = [], GENESIS
    for seq, moment in enumerate((5, 3, 6), 1):
        told = body(seq).replace(AT.format(seq), AT.format(moment))
        rows.append(Entry(seq, told, prev, leaf(prev, told)))
        prev = rows[-1].hash
    report = verify(rows, over(rows))
    assert report.ok
    assert report.warnings == [
        f"The clock went back at entry 2: '{AT.format(3)}' after '{AT.format(5)}'."
    ]


def test_a_number_among_the_facts_is_not_read_as_the_number_of_the_entry() -> None:
    told = body(1, '\\"seq\\":2,').replace('"facts":{', '"facts":{"seq":7,')
    rows = [Entry(1, told, GENESIS, leaf(GENESIS, told))]
    assert verify(rows, over(rows)).ok
    wrong = body(2)
    rows = [Entry(1, wrong, GENESIS, leaf(GENESIS, wrong))]
    assert verify(rows, over(rows)).problems == ["Entry 1 states another number."]


class TestNotes:
    # The signature ends with `A=` here; a `B` there stands for the same bytes.
    private = Ed25519PrivateKey.from_private_bytes(bytes([12]) * 32)
    key = PublicKey("switchboard", private.public_key().public_bytes_raw())
    text = checkpoint_text("switchboard", 7, b"\7" * 32)
    note = text + "\n" + signature_line(key, private.sign(text.encode()))

    def test_a_signed_note_can_be_read(self) -> None:
        read = read_note(self.note, [self.key])
        assert (read.origin, read.size, read.root) == ("switchboard", 7, b"\7" * 32)
        assert read.signer([self.key]) == self.key

    def test_a_key_is_written_as_text_and_read_again(self) -> None:
        assert PublicKey.from_text(str(self.key)) == self.key

    def test_a_note_with_any_character_changed_is_refused(self) -> None:
        for at in range(len(self.note) - 1):
            changed = self.note[:at] + ("A" if self.note[at] != "A" else "B") + self.note[at + 1 :]
            with pytest.raises(BadNote):
                read_note(changed, [self.key])

    def test_a_note_is_not_believed_with_another_key(self) -> None:
        other = PublicKey(
            "switchboard", Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        )
        with pytest.raises(BadNote, match="none of the known keys"):
            read_note(self.note, [other])


# --- many at once, and keys that follow one another --------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_entries_can_be_added_one_by_one_or_many_at_once(size: int) -> None:
    rows = chain(20)
    rows[11] = rows[11]._replace(body=body(12, "x"))
    reports = []
    for step in (1, size):
        verifier = Verifier(keys=[KEY.public])
        for note in (over(rows[:5]), over(rows[:12]), over(rows[:13])):
            verifier.expect(note)
        for at in range(0, 20, step):
            verifier.add(rows[at : at + step])
        reports.append(verifier.report())
    assert reports[0] == reports[1]
    assert (reports[0].bad_seq, reports[0].checkpoints) == (12, 3)


def test_a_checkpoint_that_comes_too_late_is_reported() -> None:
    rows = chain(20)
    verifier = Verifier(keys=[KEY.public])
    verifier.add(rows)
    verifier.expect(over(rows[:7]))
    report = verifier.report()
    assert not report.anchored
    assert report.problems[0] == "The checkpoint over 7 entries came too late to be compared."


@pytest.mark.parametrize("half", [0xD800, 0xDC80, 0xDFFF])
def test_a_lone_surrogate_is_not_hashed_as_a_question_mark(half: int) -> None:
    rows = chain(3, "?")
    rows[1] = rows[1]._replace(body=body(2, chr(half)))
    assert verify(rows, over(chain(3, "?"))).bad_seq == 2


def with_rotation(rotation: Rotation, count: int = 10, at: int = 6) -> list[Entry]:
    """Entries of which number `at` tells of a change of key."""
    rows, prev = [], GENESIS
    for seq in range(1, count + 1):
        told = body(seq)
        if seq == at:
            facts = json.dumps(rotation.to_json())
            told = told.replace(told[told.index('"facts":') :], f'"facts":{facts},')
            told += f'"from":{{}},"host":"","kind":"audit.key-rotated","seq":{seq},"v":1}}'
        rows.append(Entry(seq, told, prev, leaf(prev, told)))
        prev = rows[-1].hash
    return rows


class TestRotation:
    first, second, foreign = (new_key("switchboard") for _ in range(3))

    def test_a_new_key_is_believed_from_the_entry_of_its_rotation(self) -> None:
        rows = with_rotation(self.first.vouch_for(self.second))
        before, after = over(rows[:5], self.first), over(rows, self.second)
        assert verify(rows, before, after, key=self.first).ok
        too_early = over(rows[:5], self.second)
        assert not verify(rows, too_early, after, key=self.first).anchored

    def test_the_old_key_is_not_believed_after_the_rotation(self) -> None:
        rows = with_rotation(self.first.vouch_for(self.second))
        assert not verify(rows, over(rows, self.first), key=self.first).anchored

    def test_a_key_without_a_rotation_is_not_believed(self) -> None:
        rows = chain(10)
        report = verify(rows, over(rows, self.second), key=self.first)
        assert report.problems[0] == (
            "A checkpoint cannot be believed: none of the known keys signed it."
        )

    def test_a_foreign_key_cannot_start_a_rotation(self) -> None:
        rows = with_rotation(self.foreign.vouch_for(self.second))
        report = verify(rows, over(rows[:5], self.first), key=self.first)
        assert (report.anchored, report.bad_seq) == (False, 6)

    @pytest.mark.parametrize("name", ["old_signature", "new_signature"])
    def test_both_keys_must_sign_a_rotation(self, name: str) -> None:
        rotation = replace(self.first.vouch_for(self.second), **{name: bytes(64)})
        rows = with_rotation(rotation)
        report = verify(rows, over(rows, self.second), key=self.first)
        assert (report.anchored, report.bad_seq) == (False, 6)

    def test_an_unreadable_rotation_is_only_a_warning(self) -> None:
        rows = with_rotation(self.first.vouch_for(self.second))
        told = rows[5].body.replace('"old":', '"odd":')
        rows = chain(5) + rows[5:]
        rows[5] = Entry(6, told, rows[4].hash, leaf(rows[4].hash, told))
        report = verify(rows[:6], over(rows[:6], self.first), key=self.first)
        assert report.ok
        assert report.warnings == ["Entry 6 records a change of key that cannot be read."]

    def test_a_rotation_mentioned_in_a_text_rotates_nothing(self) -> None:
        mention = '\\"kind\\":\\"audit.key-rotated\\"'
        rows = chain(10, mention)
        assert verify(rows, over(rows, self.first), key=self.first).warnings == []

    def test_a_part_of_the_trail_needs_the_rotations_before_it(self) -> None:
        rows = with_rotation(self.first.vouch_for(self.second))
        tree = Tree()
        tree.extend([row.hash for row in rows[:8]])
        begin = {"type": "segment", "first": 9, "prev": rows[7].hash.hex(), "tree": tree.to_text()}
        rotated = {"type": "rotation", **self.first.vouch_for(self.second).to_json()}
        entries = [
            {"type": "entry", "seq": r.seq, "body": r.body, "prev": r.prev.hex()}
            | {"hash": r.hash.hex()}
            for r in rows[8:]
        ]
        end = {"type": "checkpoint", "note": over(rows, self.second)}
        with_it = [json.dumps(line) for line in [begin, rotated, *entries, end]]
        without = [json.dumps(line) for line in [begin, *entries, end]]
        assert verify_export(with_it, [self.first.public]).anchored
        assert not verify_export(without, [self.first.public]).anchored


def test_anchors_are_read_in_every_form_and_past_a_torn_line() -> None:
    key = new_key("switchboard")
    notes = [key.checkpoint(n, bytes([n]) * 32) for n in range(1, 5)]
    lines = [
        json.dumps({"note": notes[0]}),
        '{"note": "torn',
        json.dumps(notes[1]),
        "Nov 23 09:00:00 host switchboard: checkpoint " + json.dumps({"note": notes[2]}),
        *notes[3].splitlines(keepends=True),
    ]
    assert list(read_anchors(lines)) == notes


def test_only_the_first_key_of_a_file_is_believed() -> None:
    first, second = new_key("a").public, new_key("b").public
    assert read_keys([f"{first}\n", f"{second}\n"]) == first
    with pytest.raises(ValueError, match="no key"):
        read_keys([])


# --- the command: what it is given to read ------------------------------------------------------


class TestCommand:
    key = new_key("switchboard")
    rows = chain(20)

    @pytest.fixture
    def run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
        (tmp_path / "key").write_text(f"{self.key.public}\n")

        def go(*files: list[str], anchors: str | None = None) -> Ran:
            paths = [tmp_path / str(number) for number in range(len(files))]
            for path, lines in zip(paths, files, strict=True):
                path.write_text("\n".join(lines))
            args = [*map(str, paths), "--key", str(tmp_path / "key")]
            if anchors is not None:
                (tmp_path / "anchors").write_text(anchors)
                args += ["--anchors", str(tmp_path / "anchors")]
            code = main(args)
            out = capsys.readouterr()
            return code, out.out + out.err

        return go

    def export(self) -> list[str]:
        lines = [
            json.dumps({"type": "entry", "seq": r.seq, "body": r.body, "prev": r.prev.hex()}
            | {"hash": r.hash.hex()})
            for r in self.rows[:12]
        ]  # fmt: skip
        return [*lines, json.dumps({"type": "checkpoint", "note": self.note(12)})]

    def note(self, size: int) -> str:
        return over(self.rows[:size], self.key)

    @pytest.mark.parametrize("indent", [None, 2])
    def test_anchors_are_read_as_log_collectors_write_them(
        self, run: Callable[..., Ran], indent: int | None
    ) -> None:
        """One of them tells of more entries than the export has."""
        told = [{"at": "now", "note": self.note(n)} for n in (12, 20)]
        text = "\n".join(json.dumps(row, indent=indent) for row in [*told, {"note": None}])
        code, said = run(self.export(), anchors=text)
        assert (code, "A checkpoint covers 20 entries" in said) == (1, True)
        assert "compared with 2 anchors" in said

    @pytest.mark.parametrize("text", ["", "hello\nthere\n", '{"note": null}\n', '{"no": "te"}'])
    def test_a_file_without_anchors_is_an_error(self, run: Callable[..., Ran], text: str) -> None:
        code, said = run(self.export(), anchors=text)
        assert (code, "there are no anchors in" in said) == (2, True)

    def test_a_line_that_is_nested_too_deeply_is_an_error(self, run: Callable[..., Ran]) -> None:
        code, said = run([*self.export(), '{"a":' * 100_000])
        assert (code, said) == (2, "Cannot be read: it is nested too deeply\n")

    def test_a_selection_cannot_be_named_with_other_files(self, run: Callable[..., Ran]) -> None:
        bad = [line.replace("anna", "mallory") for line in self.export()]
        selection = [json.dumps({"type": "export", "selection": True})]
        for files in ((bad, selection), (selection, bad)):
            code, said = run(*files)
            assert (code, "name it alone" in said) == (2, True)

    def test_each_anchor_is_verified_once_also_if_the_export_has_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where the export has the same checkpoints."""
        asked: list[str] = []
        real = PublicKey.signed
        monkeypatch.setattr(
            PublicKey, "signed", lambda key, *told: asked.append(told[1]) or real(key, *told)
        )
        notes = [self.note(n) for n in range(1, 13)]
        report = verify_export(self.export(), [self.key.public], [*reversed(notes), *notes])
        assert (report.ok, report.checkpoints, len(asked)) == (True, 12, 12)


def test_a_signature_with_other_than_ascii_is_not_believed() -> None:
    rows = chain(3)
    note = over(rows).replace("\u2014 switchboard ", "\u2014 switchboard ä")
    with pytest.raises(BadNote):
        read_note(note, [KEY.public])
