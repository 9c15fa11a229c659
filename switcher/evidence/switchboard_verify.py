#!/usr/bin/env python3
"""Check an export of Switchboard's audit trail on a machine of your own.

    python3 switchboard_verify.py export.jsonl --key switchboard.pub [--anchors anchors.txt]

One file. It needs Python 3.11 or later and the package `cryptography`, nothing of Switchboard, no
network and no database. Switchboard itself verifies with the same code.

Each line of an export is a JSON object, by its `type`:
    segment     {"first", "prev", "tree"}: where the export begins, if not at entry 1
    entry       {"seq", "body", "prev", "hash"}: the hashes in hex, the body as it was hashed
    checkpoint  {"note"}: a signed note (https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint)

An entry's hash is SHA-256(0x00 || prev || body): it chains the entries, and it is their leaf in an
RFC 6962 Merkle tree, whose root the checkpoints sign with Ed25519.

Three verdicts:
    intact      every entry follows from the one before it, and nothing in it was changed
    anchored    every checkpoint is signed by the key, and its root is that of these entries
    complete    no checkpoint, here or among the anchors, tells of more entries than there are

Exit codes: 0 all three hold, 1 one does not, 2 the files cannot be read.
The honest limit: what happened after the newest anchored checkpoint can be cut off unnoticed.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

GENESIS = bytes(32)
ED25519 = 0x01
_sha256 = hashlib.sha256


def leaf(prev: bytes, body: str) -> bytes:
    """The hash of an entry: the link of the chain, and its leaf in the tree (RFC 6962)."""
    return _sha256(b"\0" + prev + body.encode()).digest()


def node(left: bytes, right: bytes) -> bytes:
    """An inner node of the tree (RFC 6962)."""
    return _sha256(b"\1" + left + right).digest()


@dataclass(slots=True)
class Tree:
    """A Merkle tree that only grows, as its full subtrees: a hash for each bit set in `size`,
    largest first. Constant memory: 64 hashes at most."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def add(self, entry_hash: bytes) -> None:
        """Append a leaf."""
        peaks, size = self.peaks, self.size
        while size & 1:
            entry_hash = node(peaks.pop(), entry_hash)
            size >>= 1
        peaks.append(entry_hash)
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves; of an empty tree, the hash of nothing."""
        if not self.peaks:
            return _sha256(b"").digest()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node(peak, root)
        return root

    def to_text(self) -> str:
        """`size:peak,peak`, the peaks in hex."""
        return f"{self.size}:{','.join(p.hex() for p in self.peaks)}"

    @classmethod
    def from_text(cls, text: str) -> Tree:
        """The other way round. Raises ValueError."""
        size, _, peaks = text.partition(":")
        tree = cls(int(size), [bytes.fromhex(p) for p in peaks.split(",") if p])
        if tree.size < 0 or tree.size.bit_count() != len(tree.peaks):
            raise ValueError("not a tree")
        return tree


def fold(entry_hash: bytes, index: int, size: int, proof: Iterable[bytes]) -> bytes:
    """The root that an inclusion proof leads to, for the leaf at `index` (from 0) of `size`
    (RFC 9162, 2.1.3.2). Raises ValueError where the proof has the wrong length."""
    at, last, root = index, size - 1, entry_hash
    if not 0 <= index < size:
        raise ValueError("not in the tree")
    for sibling in proof:
        if last == 0:
            raise ValueError("the proof is too long")
        if at & 1 or at == last:
            root = node(sibling, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node(root, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise ValueError("the proof is too short")
    return root


# -- Checkpoints


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a signed note says, once a signature on it was checked."""

    origin: str
    size: int
    root: bytes
    key_id: bytes


class BadNote(ValueError):
    """A checkpoint that is none, or that none of the keys signed."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """`name+id+base64`, the form of signed notes. The id is derived from name and key."""

    name: str
    key: bytes  # 32 bytes, Ed25519

    @property
    def id(self) -> bytes:
        return _sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.key).digest()[:4]

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([ED25519]) + self.key).decode()
        return f"{self.name}+{self.id.hex()}+{encoded}"

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Raises ValueError."""
        name, id_text, encoded = text.strip().split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        if len(raw) != 33 or raw[0] != ED25519 or not name:
            raise ValueError("not an Ed25519 key")
        key = cls(name, raw[1:])
        if key.id.hex() != id_text:
            raise ValueError("the key's id is not that of the key")
        return key

    def signed(self, signature: bytes, text: str) -> bool:
        """Whether this key signed the text."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """The text of a checkpoint, which is what is signed."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def signature_line(key: PublicKey, signature: bytes) -> str:
    """A line of a note's signatures."""
    return f"\u2014 {key.name} {base64.b64encode(key.id + signature).decode()}\n"


def read_note(note: str, keys: Iterable[PublicKey]) -> Checkpoint:
    """Read a checkpoint and check its signature. Raises BadNote."""
    text, separator, signatures = note.partition("\n\n")
    text += "\n"
    lines = text.split("\n")
    if not separator or len(lines) < 4:
        raise BadNote("not a signed note")
    try:
        size, root = int(lines[1]), base64.b64decode(lines[2], validate=True)
    except (ValueError, binascii.Error) as exc:
        raise BadNote("not a checkpoint") from exc
    if str(size) != lines[1] or size < 0 or len(root) != 32:
        raise BadNote("not a checkpoint")
    key = _signer(text, signatures, list(keys))
    return Checkpoint(lines[0], size, root, key.id)


def _signer(text: str, signatures: str, keys: list[PublicKey]) -> PublicKey:
    for line in signatures.splitlines():
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            continue
        for key in keys:
            named = dash == "\u2014" and key.name == name and key.id == raw[:4]
            if named and key.signed(raw[4:], text):
                return key
    raise BadNote("none of the known keys signed it")


# -- Verifying


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored row of the trail: what is checked."""

    seq: int
    body: str
    prev: bytes
    hash: bytes


@dataclass(slots=True)
class Report:
    """The verdicts, and what is wrong. `bad_seq` is the first entry at which something is."""

    entries: int = 0
    first_seq: int = 0
    last_seq: int = 0
    root: str = ""
    checkpoints: int = 0
    last_checkpoint: int = 0
    intact: bool = True
    anchored: bool = True
    complete: bool = True
    bad_seq: int | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.intact and self.anchored and self.complete

    def fail(self, verdict: str, text: str, seq: int | None = None) -> None:
        """A verdict does not hold."""
        setattr(self, verdict, False)
        if seq is not None and (self.bad_seq is None or seq < self.bad_seq):
            self.bad_seq = seq
        if len(self.problems) < 20:
            self.problems.append(text)

    def to_json(self) -> dict[str, Any]:
        row = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"ok": self.ok, **row}


MOST_WARNINGS = 20


class Verifier:
    """Fed with entries in order and with checkpoints at any time; `report` gives the verdicts.

    `expected` are checkpoints by size: read before, so that each is compared when the tree has
    that size. Memory is constant but for those that are still to come.
    """

    def __init__(self, tree: Tree | None = None, prev: bytes = GENESIS) -> None:
        self._tree = tree or Tree()
        self._prev = prev
        self._at = ""
        self._began = self._tree.size
        self._roots: dict[int, list[bytes]] = {}
        self._largest = 0
        self._report = Report(first_seq=self._tree.size + 1, last_seq=self._tree.size)

    def expect(self, checkpoint: Checkpoint) -> None:
        """The tree must have this root when it has this size, and must get that far."""
        report = self._report
        report.checkpoints += 1
        report.last_checkpoint = max(report.last_checkpoint, checkpoint.size)
        self._largest = max(self._largest, checkpoint.size)
        if checkpoint.size == self._tree.size:
            self._compare(checkpoint.root)
        elif checkpoint.size > self._tree.size:
            self._roots.setdefault(checkpoint.size, []).append(checkpoint.root)
        elif checkpoint.size > self._began:
            report.warnings.append(
                f"The checkpoint over {checkpoint.size} entries came after them: not compared."
            )

    def bad_note(self, text: str) -> None:
        """A checkpoint that could not be believed."""
        self._report.fail("anchored", text)

    def add(self, entry: Entry) -> None:
        """The next entry."""
        seq = self._tree.size + 1
        if entry.seq != seq:
            self._out_of_order(entry, seq)
        if entry.prev != self._prev:
            self._report.fail("intact", f"Entry {entry.seq} does not follow from {seq - 1}.", seq)
        made = leaf(self._prev, entry.body)
        if made != entry.hash:
            self._report.fail("intact", f"Entry {entry.seq} was changed.", entry.seq)
        self._check_body(entry)
        # Go on from what is stored: one change is one problem, not one for each entry after it.
        self._prev = entry.hash
        self._tree.add(entry.hash)
        self._report.entries += 1
        for root in self._roots.pop(self._tree.size, ()):
            self._compare(root)

    def _out_of_order(self, entry: Entry, seq: int) -> None:
        missing = entry.seq > seq
        what = f"{seq} to {entry.seq - 1} are missing" if missing else f"{entry.seq} comes again"
        self._report.fail("intact", f"Entries are not in order: {what}.", min(seq, entry.seq))
        if missing:
            self._report.complete = False

    def _check_body(self, entry: Entry) -> None:
        """What stands outside of the body says the same; time does not go back.

        The text is looked into without being parsed: its keys are sorted and all that may be
        nested stands under `facts`, so `at` is the first and `seq` the last of its name.
        """
        body = entry.body
        at = body.rfind('"seq":')
        if not body.startswith(f"{entry.seq},", at + 6):
            self._report.fail("intact", f"Entry {entry.seq} says another number.", entry.seq)
        found = body.find('"at":"') + 6
        moment = body[found : found + 27]
        if moment < self._at and len(self._report.warnings) < MOST_WARNINGS:
            self._report.warnings.append(
                f"The clock went back at entry {entry.seq}: {moment} after {self._at}."
            )
        self._at = moment

    def _compare(self, root: bytes) -> None:
        if self._tree.root() != root:
            size = self._tree.size
            text = f"The checkpoint over {size} entries is not of these entries."
            self._report.fail("anchored", text)

    def report(self) -> Report:
        """What came out, once all was fed."""
        report = self._report
        report.last_seq = self._tree.size
        report.root = self._tree.root().hex()
        if self._largest > self._tree.size:
            text = (
                f"A checkpoint tells of {self._largest} entries; only {self._tree.size} are here."
            )
            report.fail("complete", text, self._tree.size + 1)
        if not report.checkpoints:
            report.fail("anchored", "There is no checkpoint.")
        return report


# -- Reading files


def read_anchors(lines: Iterable[str]) -> Iterator[str]:
    """The notes in a file of anchors: one JSON string a line, or notes one after the other."""
    note: list[str] = []
    for line in lines:
        if line.startswith('"'):
            yield json.loads(line)
        elif line.startswith("{"):
            yield json.loads(line)["note"]
        elif line.startswith("\u2014"):
            yield "".join([*note, line])
            note = []
        elif line.strip() or note:
            note.append(line)


def verify_export(
    lines: Iterable[str],
    keys: list[PublicKey],
    anchors: Iterable[str] = (),
    tell: Callable[[int], object] = lambda entries: None,
) -> Report:
    """Verify the lines of an export. `tell` is called with the count of entries now and then.

    Raises ValueError where a line is none of an export's.
    """
    verifier = Verifier()
    fed = False
    notes = list(anchors)
    for line in lines:
        row = json.loads(line)
        kind = row.get("type")
        if kind == "segment" and not fed:
            verifier = Verifier(Tree.from_text(row["tree"]), bytes.fromhex(row["prev"]))
        elif kind == "checkpoint":
            _feed_note(verifier, row["note"], keys)
        elif kind == "entry":
            if not fed:
                for note in notes:
                    _feed_note(verifier, note, keys)
            fed = True
            verifier.add(
                Entry(
                    row["seq"], row["body"], bytes.fromhex(row["prev"]), bytes.fromhex(row["hash"])
                )
            )
            if row["seq"] % 10_000 == 0:
                tell(row["seq"])
        elif kind not in ("export", "segment"):
            raise ValueError(f"not a line of an export: {line[:60]}")
    if not fed:
        for note in notes:
            _feed_note(verifier, note, keys)
    return verifier.report()


def _feed_note(verifier: Verifier, note: str, keys: list[PublicKey]) -> None:
    try:
        verifier.expect(read_note(note, keys))
    except BadNote as exc:
        verifier.bad_note(f"A checkpoint cannot be believed: {exc}.")


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Check an export of Switchboard's audit trail.")
    parser.add_argument("export", help="the export, JSONL; - for standard input")
    parser.add_argument("--key", action="append", required=True, help="public key (file)")
    parser.add_argument("--anchors", help="file of checkpoints that left the machine")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    args = parser.parse_args(argv)
    try:
        report = _run(args)
    except (OSError, ValueError, KeyError, TypeError, UnicodeDecodeError) as exc:
        print(f"Cannot be read: {exc}", file=sys.stderr)
        return 2
    print(json.dumps(report.to_json()) if args.json else describe(report))
    return 0 if report.ok else 1


def _run(args: argparse.Namespace) -> Report:
    keys = []
    for path in args.key:
        with open(path, encoding="utf-8") as file:
            keys += [PublicKey.from_text(line) for line in file if line.strip()]
    anchors: list[str] = []
    if args.anchors:
        with open(args.anchors, encoding="utf-8") as file:
            anchors = list(read_anchors(file))
    if args.export == "-":
        return verify_export(sys.stdin, keys, anchors)
    with open(args.export, encoding="utf-8", newline="\n") as file:
        return verify_export(file, keys, anchors)


def describe(report: Report) -> str:
    """The verdicts for people."""
    span = f"entries {report.first_seq:,} to {report.last_seq:,}" if report.entries else "no entry"
    lines = [f"{report.entries:,} entries ({span}), {report.checkpoints:,} checkpoints"]
    for verdict in ("intact", "anchored", "complete"):
        lines.append(f"  {verdict:<10}{'yes' if getattr(report, verdict) else 'NO'}")
    if report.bad_seq is not None:
        lines.append(f"First bad entry: {report.bad_seq:,}")
    lines += [f"- {text}" for text in report.problems]
    lines += [f"Note: {text}" for text in report.warnings]
    after = report.last_seq - report.last_checkpoint
    if report.ok and after > 0:
        lines.append(f"The last {after:,} entries are after the newest checkpoint.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
