"""The verifier by itself: trees, proofs, signed notes, and what each kind of damage is called."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from switcher.audit.signing_keys import SigningKey, new_key
from switcher.audit.verifier.switchboard_verify import (
    GENESIS,
    BadNote,
    Checkpoint,
    Entry,
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
    plain_entry,
    read_anchors,
    read_keys,
    read_note,
    signature_line,
    verify_export,
)

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
    rows[at - 1] = rows[at - 1]._replace(body=body(at, "x"))
    report = verify(rows, over(chain(20)))
    assert (report.intact, report.bad_seq) == (False, at)


@pytest.mark.parametrize("field", ["prev", "hash"])
def test_a_changed_hash_is_named(field: str) -> None:
    rows = chain(20)
    rows[6] = rows[6]._replace(**{field: b"\1" * 32})
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
        f"The clock went back at entry 2: '{AT.format(3)}' after '{AT.format(5)}'."
    ]


def test_a_number_inside_of_the_facts_is_not_taken_for_the_entrys() -> None:
    told = body(1, '\\"seq\\":2,').replace('"facts":{', '"facts":{"seq":7,')
    rows = [Entry(1, told, GENESIS, leaf(GENESIS, told))]
    assert verify(rows, over(rows)).ok
    wrong = body(2)
    rows = [Entry(1, wrong, GENESIS, leaf(GENESIS, wrong))]
    assert verify(rows, over(rows)).problems == ["Entry 1 says another number."]


class TestNotes:
    # The signature ends with `A=` here; a `B` there stands for the same bytes.
    private = Ed25519PrivateKey.from_private_bytes(bytes([12]) * 32)
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


# --- many at once, and keys that follow one another --------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_entries_may_come_one_by_one_or_many_at_once(size: int) -> None:
    rows = chain(20)
    rows[11] = rows[11]._replace(body=body(12, "x"))
    reports = []
    for step in (1, size):
        verifier = Verifier()
        for checkpoint in (over(rows[:5]), over(rows[:12]), over(rows[:13])):
            verifier.expect(checkpoint)
        for at in range(0, 20, step):
            verifier.add_all(rows[at : at + step])
        reports.append(verifier.report())
    assert reports[0] == reports[1]
    assert (reports[0].bad_seq, reports[0].checkpoints) == (12, 3)


def test_a_checkpoint_that_comes_too_late_is_not_passed_over() -> None:
    rows = chain(20)
    verifier = Verifier()
    verifier.add_all(rows)
    verifier.expect(over(rows[:7]))
    report = verifier.report()
    assert not report.anchored
    assert report.problems[0] == "The checkpoint over 7 entries came too late to be compared."


@pytest.mark.parametrize("half", [0xD800, 0xDC80, 0xDFFF])
def test_half_a_surrogate_is_another_text_than_a_question_mark(half: int) -> None:
    rows = chain(3, "?")
    rows[1] = rows[1]._replace(body=body(2, chr(half)))
    assert verify(rows, over(chain(3, "?"))).bad_seq == 2


def signer() -> SigningKey:
    return new_key("switchboard")


def note_over(rows: list[Entry], key: SigningKey) -> str:
    return key.checkpoint(len(rows), root(rows))


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


def verify_notes(rows: list[Entry], root_key: SigningKey, *notes: str) -> Report:
    verifier = Verifier(keys=[root_key.public])
    for note in notes:
        verifier.expect_note(note)
    verifier.add_all(rows)
    return verifier.report()


class TestRotation:
    first, second, foreign = signer(), signer(), signer()

    def test_a_key_is_believed_from_the_entry_on_in_which_the_old_one_vouches_for_it(self) -> None:
        rows = with_rotation(self.first.vouch_for(self.second))
        before, after = note_over(rows[:5], self.first), note_over(rows, self.second)
        assert verify_notes(rows, self.first, before, after).ok
        too_early = note_over(rows[:5], self.second)
        assert not verify_notes(rows, self.first, too_early, after).anchored

    def test_the_old_key_is_believed_no_longer(self) -> None:
        rows = with_rotation(self.first.vouch_for(self.second))
        assert not verify_notes(rows, self.first, note_over(rows, self.first)).anchored

    def test_a_key_that_nobody_vouches_for_is_not_believed(self) -> None:
        rows = chain(10)
        report = verify_notes(rows, self.first, note_over(rows, self.second))
        assert report.problems[0] == (
            "A checkpoint cannot be believed: none of the known keys signed it."
        )

    def test_a_foreign_key_cannot_vouch_for_itself(self) -> None:
        rows = with_rotation(self.foreign.vouch_for(self.second))
        report = verify_notes(rows, self.first, note_over(rows[:5], self.first))
        assert (report.anchored, report.bad_seq) == (False, 6)

    @pytest.mark.parametrize("name", ["old_signature", "new_signature"])
    def test_both_keys_must_have_signed(self, name: str) -> None:
        rotation = replace(self.first.vouch_for(self.second), **{name: bytes(64)})
        rows = with_rotation(rotation)
        report = verify_notes(rows, self.first, note_over(rows, self.second))
        assert (report.anchored, report.bad_seq) == (False, 6)

    def test_a_rotation_of_nonsense_changes_nothing_and_is_told(self) -> None:
        rows = with_rotation(self.first.vouch_for(self.second))
        told = rows[5].body.replace('"old":', '"odd":')
        rows = chain(5) + rows[5:]
        rows[5] = Entry(6, told, rows[4].hash, leaf(rows[4].hash, told))
        report = verify_notes(rows[:6], self.first, note_over(rows[:6], self.first))
        assert report.ok
        assert report.warnings == ["Entry 6 tells of a change of key that is none."]

    def test_who_only_mentions_a_rotation_rotates_nothing(self) -> None:
        mention = '\\"kind\\":\\"audit.key-rotated\\"'
        rows = chain(10, mention)
        assert verify_notes(rows, self.first, note_over(rows, self.first)).warnings == []

    def test_a_part_of_the_trail_brings_the_changes_of_key_from_before_it(self) -> None:
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
        end = {"type": "checkpoint", "note": note_over(rows, self.second)}
        with_it = [json.dumps(line) for line in [begin, rotated, *entries, end]]
        without = [json.dumps(line) for line in [begin, *entries, end]]
        assert verify_export(with_it, [self.first.public]).anchored
        assert not verify_export(without, [self.first.public]).anchored


def test_anchors_are_read_in_all_their_forms_and_over_a_torn_line() -> None:
    key = signer()
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
    first, second = signer().public, signer().public
    assert read_keys([f"{first}\n", f"{second}\n"]) == first
    with pytest.raises(ValueError, match="no key"):
        read_keys([])


# --- the command: what it is given to read ------------------------------------------------------


class TestCommand:
    key = signer()
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
        return note_over(self.rows[:size], self.key)

    @pytest.mark.parametrize("indent", [None, 2])
    def test_anchors_are_understood_as_collectors_write_them(
        self, run: Callable[..., Ran], indent: int | None
    ) -> None:
        """One of them tells of more entries than the export has."""
        told = [{"at": "now", "note": self.note(n)} for n in (12, 20)]
        text = "\n".join(json.dumps(row, indent=indent) for row in [*told, {"note": None}])
        code, said = run(self.export(), anchors=text)
        assert (code, "A checkpoint tells of 20 entries" in said) == (1, True)
        assert "compared with 2 anchors" in said

    @pytest.mark.parametrize("text", ["", "hello\nthere\n", '{"note": null}\n', '{"no": "te"}'])
    def test_a_file_without_any_anchor_is_not_taken_for_one(
        self, run: Callable[..., Ran], text: str
    ) -> None:
        code, said = run(self.export(), anchors=text)
        assert (code, "there are no anchors in" in said) == (2, True)

    def test_what_is_nested_too_deeply_cannot_be_read(self, run: Callable[..., Ran]) -> None:
        code, said = run([*self.export(), '{"a":' * 100_000])
        assert (code, said) == (2, "Cannot be read: it is nested too deeply\n")

    def test_a_selection_does_not_hide_what_is_wrong_before_it(
        self, run: Callable[..., Ran]
    ) -> None:
        bad = [line.replace("anna", "mallory") for line in self.export()]
        selection = [json.dumps({"type": "export", "selection": True})]
        for files in ((bad, selection), (selection, bad)):
            code, said = run(*files)
            assert (code, "name it alone" in said) == (2, True)

    def test_many_anchors_are_met_in_their_order_and_each_is_verified_once(
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


PLAIN = (
    r'{"type":"entry","seq":7,"body":"{\"a\":\"b\"}",'
    f'"prev":"{"ab" * 32}","hash":"{"cd" * 32}"}}\n'
)


def test_a_line_as_it_is_written_is_read_as_the_json_that_it_is() -> None:
    told = json.loads(PLAIN)
    prev, entry_hash = bytes.fromhex(told["prev"]), bytes.fromhex(told["hash"])
    assert plain_entry(PLAIN) == (7, told["body"], prev, entry_hash)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"type":"entry"', '"type":"checkpoint"'),
        (',"body":', ',"proof":[],"body":'),
        ('"}\n', '","seq":8}\n'),
        ('"}\n', '"} \n'),
        ('"}\n', '"}'),
        (r"b\"", r"\u00e4\""),
        (r"b\"", r"\n\""),
        (r"b\"", r"\\\""),
        (r"b\"", '"'),
        (r"b\"", r'b","x":"\n\n\n\n'),
        ('}","prev', '}","body":"other","prev'),
        (PLAIN, ""),
        (PLAIN, '{"type":"entry","seq":7'),
    ],
)
def test_a_line_that_is_written_otherwise_is_left_to_json(old: str, new: str) -> None:
    assert old in PLAIN
    assert plain_entry(PLAIN.replace(old, new)) is None


@pytest.mark.parametrize(
    "text", ["", "b", 'quo"ted', "back\\slash", '\\"', "\n", "ä", "\x00", "\ud800", "a\\\\b"]
)
def test_whatever_an_entry_says_a_line_is_read_as_its_json(text: str) -> None:
    told = {"type": "entry", "seq": 7, "body": json.dumps({"a": text}, ensure_ascii=False)}
    told |= {"prev": "ab" * 32, "hash": "cd" * 32}
    row = plain_entry(json.dumps(told, separators=(",", ":")) + "\n")
    assert row is None or row[:2] == (7, told["body"])
    assert (row is None) == (text not in ("", "b"))


@pytest.mark.parametrize("number", ["", "x", "7.5"])
def test_a_line_whose_number_is_none_is_an_error(number: str) -> None:
    with pytest.raises(ValueError, match="invalid literal for int"):
        plain_entry(PLAIN.replace(":7,", f":{number},"))


PIECES = [
    *("a", "ä", "{", ":", ",", '"', "\\", "\\\\", "\\n", '\\"', "u00e4", "\\u0041"),
    *('":"', '","body":"'),
]


def test_no_line_is_read_as_another_entry_than_its_json() -> None:
    chosen = random.Random(7)
    both = 0
    for _ in range(50_000):
        inside = "".join(chosen.choices(PIECES, k=chosen.randint(0, 9)))
        line = PLAIN.replace(r"{\"a\":\"b\"}", inside)
        row = plain_entry(line)
        try:
            told = json.loads(line)
        except ValueError:
            continue  # what is no JSON is an entry only if its hash is that of what was read
        if row is not None:
            both += 1
            assert row[:2] == (told["seq"], told["body"])
    assert both > 1000


def test_a_signature_that_is_no_ascii_is_none() -> None:
    rows = chain(3)
    signer = new_key("switchboard")
    note = signer.checkpoint(3, root(rows)).replace("\u2014 switchboard ", "\u2014 switchboard ä")
    with pytest.raises(BadNote):
        read_note(note, [signer.public])
