#!/usr/bin/env python3
"""Check an export of Switchboard's audit trail on a machine of your own.

    python3 switchboard_verify.py export.jsonl --key audit-keys.pub [--anchors anchors.txt]
    python3 switchboard_verify.py segment-1.jsonl segment-2.jsonl export.jsonl --key audit-keys.pub

Old entries may have been moved to segments: files of the same form. Name them before the export,
the oldest first, and all is checked as one chain.

One file. It needs Python 3.11 or later and the package `cryptography`, nothing of Switchboard, no
network and no database. Switchboard itself verifies with the same code.

Each line of an export is a JSON object, by its `type`:
    segment     {"first", "prev", "tree"}: where the export begins, if not at entry 1
    export      {"made_at", "by", "filter", "selection"}: the first line
    entry       {"seq", "body", "prev", "hash"}: the hashes in hex, the body as it was hashed;
                in a selection also {"proof"}: the hashes that lead to the checkpoint's root
    checkpoint  {"note"}: a signed note (https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint)
    rotation    {"old", "new", "old_signature", "new_signature"}: a change of key before `first`

An entry's hash is SHA-256(0x00 || prev || body): it chains the entries, and it is their leaf in an
RFC 6962 Merkle tree, whose root the checkpoints sign with Ed25519.

The first key of the file is believed because you say so; a later one from the entry on in which
the key before it vouches for it, and that one no longer.

Three verdicts:
    intact      every entry follows from the one before it, and nothing in it was changed
    anchored    every checkpoint is signed by the key, and its root is that of these entries
    complete    no checkpoint, here or among the anchors, tells of more entries than there are, and
                of entries that lie in segments which are not named, an entry here tells that the
                key signed by itself, and that lies under a checkpoint

A selection (an export with a filter) is no chain. In it, intact is that no entry was changed, and
anchored that each one's proof leads to the root of the signed checkpoint at its head. Whether
something was left out, a selection cannot tell.

Exit codes: 0 all three hold, 1 one does not, 2 the files cannot be read,
3 a selection of which the first two hold.
The honest limit: what happened after the newest anchored checkpoint can be cut off unnoticed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import heapq
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

GENESIS = bytes(32)
# What reading a text raises that is not what it should be.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
ED25519 = 0x01
# Half a surrogate, which no body has that was written here, is another text than any other.
AS_IS = "surrogatepass"
_sha256 = hashlib.sha256


def leaf(prev: bytes, body: str) -> bytes:
    """The hash of an entry: the link of the chain, and its leaf in the tree (RFC 6962)."""
    return _sha256(b"\0" + prev + body.encode("utf-8", AS_IS)).digest()


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
        self.extend([entry_hash])

    def extend(self, hashes: Sequence[bytes]) -> None:
        """Append leaves: level by level, pairs become nodes, and what stays alone is a peak."""
        sha256, alone = _sha256, []
        level, size = list(hashes), self.size
        while level:
            if size & 1:
                level.insert(0, self.peaks.pop())
            if len(level) & 1:
                alone.append(level.pop())
            pairs = zip(level[::2], level[1::2], strict=True)
            level = [sha256(b"\1" + left + right).digest() for left, right in pairs]
            size >>= 1
        self.peaks += reversed(alone)
        self.size += len(hashes)

    def copy(self) -> Tree:
        """One that grows by itself."""
        return Tree(self.size, list(self.peaks))

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


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint as it is written, before anybody vouches for it."""

    origin: str
    size: int
    root: bytes
    text: str
    signatures: str

    @classmethod
    def parse(cls, note: str) -> Note:
        """Raises BadNote."""
        text, separator, signatures = note.partition("\n\n")
        lines = text.split("\n")
        if not separator or len(lines) < 3:
            raise BadNote("not a signed note")
        try:
            size, root = int(lines[1]), base64.b64decode(lines[2], validate=True)
        except ValueError as exc:
            raise BadNote("not a checkpoint") from exc
        if str(size) != lines[1] or size < 0 or len(root) != 32:
            raise BadNote("not a checkpoint")
        return cls(lines[0], size, root, f"{text}\n", signatures)

    def signer(self, keys: Iterable[PublicKey]) -> PublicKey:
        """Which of the keys signed it. Raises BadNote."""
        known = list(keys)
        for line in self.signatures.splitlines():
            dash, _, rest = line.partition(" ")
            name, _, encoded = rest.partition(" ")
            try:
                raw = base64.b64decode(encoded, validate=True)
            except ValueError:
                continue
            if base64.b64encode(raw).decode() != encoded:
                continue  # other bits behind the last byte: it was not written like this
            for key in known:
                named = dash == "\u2014" and key.name == name and key.id == raw[:4]
                if named and key.signed(raw[4:], self.text):
                    return key
        raise BadNote("none of the known keys signed it")


def read_note(note: str, keys: Iterable[PublicKey]) -> Checkpoint:
    """Read a checkpoint and check its signature. Raises BadNote."""
    read = Note.parse(note)
    return Checkpoint(read.origin, read.size, read.root, read.signer(keys).id)


# -- Keys that follow one another

ROTATED = "audit.key-rotated"
ARCHIVED = "audit.archived"


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new key, vouched for by the one before it and signed by both."""

    old: PublicKey
    new: PublicKey
    old_signature: bytes
    new_signature: bytes

    @staticmethod
    def text(old: PublicKey, new: PublicKey) -> str:
        """What both keys sign."""
        return f"switchboard audit key rotation\n{old}\n{new}\n"

    @property
    def holds(self) -> bool:
        """Whether both signed it."""
        text = self.text(self.old, self.new)
        return self.old.signed(self.old_signature, text) and self.new.signed(
            self.new_signature, text
        )

    def to_json(self) -> dict[str, str]:
        return {
            "old": str(self.old),
            "new": str(self.new),
            "old_signature": base64.b64encode(self.old_signature).decode(),
            "new_signature": base64.b64encode(self.new_signature).decode(),
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Rotation:
        """Raises ValueError."""
        try:
            old, new = PublicKey.from_text(row["old"]), PublicKey.from_text(row["new"])
            signatures = [
                base64.b64decode(row[name], validate=True)
                for name in ("old_signature", "new_signature")
            ]
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError("not a rotation") from exc
        return cls(old, new, *signatures)


# -- Entries that were moved to files


@dataclass(frozen=True, slots=True)
class Archived:
    """That entries were moved to a file, signed: whoever may append could say so, too."""

    first: int
    last: int
    sha256: str
    root: str  # of the tree of all entries up to the last one
    signature: bytes

    @staticmethod
    def text(first: int, last: int, sha256: str, root: str) -> str:
        """What is signed."""
        return f"switchboard audit segment\n{first}\n{last}\n{sha256}\n{root}\n"

    def signed(self, keys: Iterable[PublicKey]) -> bool:
        """Whether one of the keys signed it."""
        text = self.text(self.first, self.last, self.sha256, self.root)
        return any(key.signed(self.signature, text) for key in keys)

    def to_json(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "last": self.last,
            "sha256": self.sha256,
            "root": self.root,
            "signature": base64.b64encode(self.signature).decode(),
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Archived:
        """Raises what UNREADABLE names."""
        signature = base64.b64decode(row["signature"], validate=True)
        first, last = int(row["first"]), int(row["last"])
        return cls(first, last, str(row["sha256"]), str(row["root"]), signature)


class Keyring:
    """The keys that are believed now. A rotation replaces one by the next."""

    def __init__(self, roots: Iterable[PublicKey] = ()) -> None:
        self._keys = {str(key): key for key in roots}
        self._ever = set(self._keys)

    def __iter__(self) -> Iterator[PublicKey]:
        return iter(list(self._keys.values()))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def rotate(self, rotation: Rotation) -> bool:
        """Believe the new key instead of the old. False: that is not believed, or did not sign."""
        if str(rotation.old) not in self._keys or not rotation.holds:
            return False
        del self._keys[str(rotation.old)]
        self._keys[str(rotation.new)] = rotation.new
        self._ever.add(str(rotation.new))
        return True

    def knew(self, rotation: Rotation) -> bool:
        """Whether the key it leads to was believed before."""
        return str(rotation.new) in self._ever


def read_keys(lines: Iterable[str]) -> PublicKey:
    """The first key of a file of keys: the one that is believed. Later ones stand there to be
    read; what makes them believed is their rotation. Raises ValueError."""
    for line in lines:
        if line.strip():
            return PublicKey.from_text(line)
    raise ValueError("there is no key in the file")


# -- Verifying


class Entry(NamedTuple):
    """A stored row of the trail: what is checked."""

    seq: int
    body: str
    prev: bytes
    hash: bytes


Row = tuple[int, str, bytes, bytes]  # an Entry, or a row with its fields in the same order


@dataclass(slots=True)
class Report:
    """The verdicts, and what is wrong. `bad_seq` is the first entry at which something is."""

    entries: int = 0
    first_seq: int = 0
    last_seq: int = 0
    root: str = ""
    checkpoints: int = 0
    anchors: int = 0  # notes from elsewhere that it was compared with
    last_checkpoint: int = 0
    intact: bool = True
    anchored: bool = True
    complete: bool = True
    bad_seq: int | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    selection: bool = False

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


MAX_WARNINGS = 20
SPECIAL = (f'{ROTATED}"', f'{ARCHIVED}"')  # kinds of entries that say something to a verifier


class Verifier:
    """Fed with entries in order and with checkpoints before the entries that they cover; `report`
    gives the verdicts.

    `keys` are those that are believed at the beginning. A checkpoint is looked at when the tree
    has its size, with the keys that are believed by then. Memory is constant but for the
    checkpoints that are still to come.
    """

    def __init__(
        self, tree: Tree | None = None, prev: bytes = GENESIS, keys: Iterable[PublicKey] = ()
    ) -> None:
        self._tree = tree.copy() if tree is not None else Tree()
        self._prev = prev
        self._keys = Keyring(keys)
        self._at = ""
        self._began = self._tree.size
        # What has to be told of the entries before the first one here, and which entry tells it.
        self._before: tuple[int, str] | None = None
        self._told_by = 0
        self._archived: set[tuple[int, int, str, str]] = set()
        # By their sizes, each once; and those that were met at the size that the tree has now.
        self._to_come: dict[int, dict[Checkpoint | Note, None]] = {}
        self._sizes: list[int] = []  # the same sizes, a heap
        self._met: tuple[int, set[Checkpoint | Note]] = 0, set()
        self._report = Report(first_seq=self._tree.size + 1, last_seq=self._tree.size)

    @property
    def size(self) -> int:
        """How many entries the tree has."""
        return self._tree.size

    @property
    def tree(self) -> Tree:
        return self._tree

    @property
    def prev(self) -> bytes:
        """The hash that the next entry follows from."""
        return self._prev

    def ask_for_what_is_before(self) -> None:
        """The entries before the first one here are nowhere: an entry must tell where they went,
        and a checkpoint be over that entry."""
        self._before = self._tree.size, self._tree.root().hex()

    def tells_of(self, first: int, last: int, sha256: str, root: str) -> bool:
        """Whether an entry told that these were moved to that file, signed by the key of then."""
        return (first, last, sha256, root) in self._archived

    def expect(self, checkpoint: Checkpoint | Note) -> None:
        """The tree must have this root when it has this size, and must get that far."""
        if checkpoint.size == self._tree.size:
            self._meet(checkpoint)
        elif checkpoint.size > self._tree.size:
            if checkpoint.size not in self._to_come:
                heapq.heappush(self._sizes, checkpoint.size)
            self._to_come.setdefault(checkpoint.size, {})[checkpoint] = None
        elif checkpoint.size >= self._began:
            text = f"The checkpoint over {checkpoint.size} entries came too late to be compared."
            self._report.fail("anchored", text)

    def expect_note(self, note: str) -> None:
        """The same for a signed note, which may turn out to be none."""
        try:
            self.expect(Note.parse(note))
        except BadNote as exc:
            self._bad_note(exc)

    def rotated_before(self, rotation: Rotation) -> None:
        """A change of key before the next entry here."""
        if not self._keys.knew(rotation) and not self._keys.rotate(rotation):
            self._report.fail("anchored", "A change of the key before these entries is not signed.")

    def skip(self, tree: Tree, prev: bytes, why: str) -> None:
        """Go on behind entries that are not here, from the tree and the hash that they end with.
        Whether those are true, the next checkpoint tells."""
        self._report.fail("complete", why)
        self._tree, self._prev, self._at, self._began = tree.copy(), prev, "", tree.size
        while self._sizes and self._sizes[0] <= tree.size:
            size = heapq.heappop(self._sizes)
            passed = self._to_come.pop(size)
            for checkpoint in passed if size == tree.size else ():
                self._meet(checkpoint)

    def fail(self, verdict: str, text: str) -> None:
        """What was found wrong by who feeds it."""
        self._report.fail(verdict, text)

    def _bad_note(self, why: BadNote) -> None:
        self._report.fail("anchored", f"A checkpoint cannot be believed: {why}.")

    def add(self, entry: Entry) -> None:
        """The next entry."""
        self.add_all([entry])

    def add_all(self, rows: Sequence[Row]) -> None:
        """The next entries: many at once take half the time."""
        while self._sizes:
            # Up to the next checkpoint, so that the tree can be compared there.
            fit = self._sizes[0] - self._tree.size
            if fit > len(rows):
                break
            self._add_run(rows[:fit])
            rows = rows[fit:]
            for checkpoint in self._to_come.pop(heapq.heappop(self._sizes)):
                self._meet(checkpoint)
        self._add_run(rows)

    def _add_run(self, rows: Sequence[Row]) -> None:
        """The loop that runs a million times: what is right is let through here, all else is
        named by `_blame`.

        A body is looked into without being parsed: its keys are sorted and all that may be nested
        stands under `facts`, so `at` is the first, `kind` and `seq` are the last of their names.
        """
        sha256, prev, seq, last_at = _sha256, self._prev, self._tree.size, self._at
        hashes = []
        for row in rows:
            number, body, told_prev, told_hash = row
            seq += 1
            if (
                sha256(b"\0" + prev + body.encode("utf-8", AS_IS)).digest() != told_hash
                or told_prev != prev
                or number != seq
                or not body.startswith(f"{seq},", body.rfind('"seq":') + 6)
            ):
                self._blame(row, seq, prev)
            found = body.find('"at":"') + 6
            at = body[found : found + 27]
            if at < last_at:
                self._warn(f"The clock went back at entry {number}: {at!a} after {last_at!a}.")
            if body.startswith(SPECIAL, body.rfind('"kind":"') + 8):
                self._see(body, number)
            # Go on from what is stored: one change is one problem, not one for each entry after.
            prev, last_at = told_hash, at
            hashes.append(told_hash)
        self._prev, self._at = prev, last_at
        self._tree.extend(hashes)
        self._report.entries += len(hashes)

    def _blame(self, row: Row, seq: int, prev: bytes) -> None:
        """Say what is wrong with an entry that should be the `seq`-th and follow from `prev`."""
        number, body, told_prev, told_hash = row
        fail = self._report.fail
        if number != seq:
            self._out_of_order(number, seq)
        if told_prev != prev:
            fail("intact", f"Entry {number} does not follow from {seq - 1}.", min(seq, number))
        if leaf(prev, body) != told_hash:
            fail("intact", f"Entry {number} was changed.", number)
        if not body.startswith(f"{number},", body.rfind('"seq":') + 6):
            fail("intact", f"Entry {number} says another number.", number)

    def _out_of_order(self, number: int, seq: int) -> None:
        missing = number > seq
        what = f"{seq} to {number - 1} are missing" if missing else f"{number} comes again"
        self._report.fail("intact", f"Entries are not in order: {what}.", min(seq, number))
        if missing:
            self._report.complete = False

    def _warn(self, text: str) -> None:
        if len(self._report.warnings) < MAX_WARNINGS:
            self._report.warnings.append(text)

    def _see(self, body: str, number: int) -> None:
        if body.startswith(ROTATED, body.rfind('"kind":"') + 8):
            self._see_rotation(body, number)
        else:
            self._see_archived(body, number)

    def _see_archived(self, body: str, number: int) -> None:
        """Entries were moved to a segment: those before the first one here, too?"""
        try:
            told = Archived.from_json(json.loads(body)["facts"])
            facts = told.first, told.last, told.sha256, told.root
            believed = told.signed(self._keys)
        except UNREADABLE:
            believed = False
        if believed:
            self._archived.add(facts)
            if (told.last, told.root) == self._before:
                self._told_by = self._told_by or number
        elif self._keys:  # without any this is about the chain alone, such as before signing
            self._warn(f"Entry {number} tells of moved entries, and the key did not sign that.")

    def _see_rotation(self, body: str, number: int) -> None:
        """A key vouches for the next one. Whoever may append can write such an entry: one that
        is not signed by a believed key changes nothing, and is told."""
        try:
            rotation = Rotation.from_json(json.loads(body)["facts"])
        except UNREADABLE:
            self._warn(f"Entry {number} tells of a change of key that is none.")
            return
        # Without keys this is about the chain alone, such as before signing.
        if self._keys and not self._keys.rotate(rotation):
            self._report.fail(
                "anchored", f"The change of key in entry {number} is not signed.", number
            )

    def _meet(self, checkpoint: Checkpoint | Note) -> None:
        """The tree has its size: is it signed by a key that is believed, and over this tree?"""
        if self._met[0] != self._tree.size:
            self._met = self._tree.size, set()
        if checkpoint in self._met[1]:
            return  # an anchor of the checkpoint that is here as well
        self._met[1].add(checkpoint)
        if isinstance(checkpoint, Note):
            try:
                checkpoint.signer(self._keys)
            except BadNote as exc:
                self._bad_note(exc)
                return
        self._report.checkpoints += 1
        self._report.last_checkpoint = max(self._report.last_checkpoint, checkpoint.size)
        self._compare(checkpoint.root)

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
        largest = max((size for size, all_ in self._to_come.items() if self._any(all_)), default=0)
        if largest:
            text = f"A checkpoint tells of {largest} entries; only {self._tree.size} are here."
            report.fail("complete", text, self._tree.size + 1)
        if not report.checkpoints:
            report.fail("anchored", "There is no checkpoint.")
        if self._before is not None and not 0 < self._told_by <= report.last_checkpoint:
            text = f"No signed entry here tells that entries 1 to {self._before[0]} were moved."
            report.fail("complete", f"{text} Name their files first.")
        return report

    def _any(self, checkpoints: Iterable[Checkpoint | Note]) -> bool:
        """Whether one of these is believed, of those that are over more than there is."""
        believed = False
        for checkpoint in checkpoints:
            try:
                if isinstance(checkpoint, Note):
                    checkpoint.signer(self._keys)
            except BadNote as exc:
                self._bad_note(exc)
            else:
                believed = True
                self._report.checkpoints += 1
                self._report.last_checkpoint = max(self._report.last_checkpoint, checkpoint.size)
        return believed


class Selection:
    """Single entries, each with the proof that it is in one signed checkpoint. `report` gives the
    verdicts but for `complete`, which a selection cannot tell."""

    def __init__(self, keys: Iterable[PublicKey] = (), anchors: Iterable[str] = ()) -> None:
        self._keys = Keyring(keys)
        self._anchors = list(anchors)
        self._note: Note | None = None
        self._newer = 0
        self._report = Report(complete=False, selection=True)

    def rotated_before(self, rotation: Rotation) -> None:
        """A change of key before the checkpoint."""
        if not self._keys.rotate(rotation):
            self._report.fail("anchored", "A change of the key is not signed.")

    def meet(self, note: str) -> None:
        """The checkpoint that the proofs lead to: one, and before the entries."""
        try:
            read = Note.parse(note)
            read.signer(self._keys)
        except BadNote as exc:
            self._report.fail("anchored", f"A checkpoint cannot be believed: {exc}.")
            return
        if self._note is not None or self._report.entries:
            self._report.fail("anchored", "A selection has one checkpoint, before its entries.")
            return
        self._note = read
        self._report.checkpoints, self._report.last_checkpoint = 1, read.size
        self._report.root = read.root.hex()
        for anchor in self._anchors:
            self._compare(anchor, read)

    def _compare(self, anchor: str, note: Note) -> None:
        try:
            told = Note.parse(anchor)
        except BadNote as exc:
            self._report.fail("anchored", f"An anchor cannot be believed: {exc}.")
            return
        if told.size == note.size and told.root != note.root:
            text = f"An anchor over {told.size} entries is not of these entries."
            self._report.fail("anchored", text)

    def add(self, row: Row, proof: list[bytes] | None) -> None:
        """The next entry; None for one that has no proof."""
        number, body, prev, told_hash = row
        report = self._report
        if number <= report.last_seq:
            report.fail("intact", f"Entries are not in order: {number} comes late.", number)
        if leaf(prev, body) != told_hash:
            report.fail("intact", f"Entry {number} was changed.", number)
        if not body.startswith(f"{number},", body.rfind('"seq":') + 6):
            report.fail("intact", f"Entry {number} says another number.", number)
        self._prove(number, told_hash, proof)
        report.first_seq = report.first_seq or number
        report.last_seq = max(report.last_seq, number)
        report.entries += 1

    def _prove(self, number: int, told_hash: bytes, proof: list[bytes] | None) -> None:
        if self._note is None or number > self._note.size:
            self._newer += 1
            return
        try:
            root = None if proof is None else fold(told_hash, number - 1, self._note.size, proof)
        except ValueError:
            root = None
        if root != self._note.root:
            text = f"Entry {number} is not proved to be in the checkpoint."
            self._report.fail("anchored", text, number)

    def report(self) -> Report:
        """What came out, once all was fed."""
        if self._note is None:
            self._report.fail("anchored", "There is no checkpoint.")
        elif self._newer:
            text = f"{self._newer} entries are newer than the checkpoint: nothing proves them."
            self._report.warnings.append(text)
        return self._report


# -- Reading files


# A member `note` of a JSON object, also where that is of several lines or inside of another.
_NOTE = re.compile(r'"note"\s*:\s*("(?:[^"\\]|\\.)*")')


def read_anchors(lines: Iterable[str]) -> Iterator[str]:
    """The notes in a file of anchors: the strings `note` of JSON objects, whatever stands around
    them; JSON strings, one a line; or notes one after the other."""
    note: list[str] = []
    for line in lines:
        found = _NOTE.findall(line) or ([line] if line.startswith('"') else [])
        for text in found:
            try:
                told = json.loads(text)
            except ValueError:
                continue  # cut off while it was written; it was then written again
            if isinstance(told, str):
                yield told
        if found or line.lstrip()[:1] in ("{", "}", "[", "]", '"'):
            continue
        if line.startswith("\u2014"):
            yield "".join([*note, line])
            note = []
        elif line.strip() or note:
            note.append(line)


BATCH = 1000

_BEGIN, _BODY, _PREV, _HASH, _END = (
    '{"type":"entry","seq":',
    ',"body":"',
    '","prev":"',
    '","hash":"',
    '"}\n',
)


def plain_entry(line: str) -> Row | None:
    """An entry from a line as Switchboard writes it, which takes a sixth of all the time less than
    as JSON. None: read it as JSON. Raises ValueError.

    It has no backslash but before quotes, and no quote without one.
    """
    comma = line.find(",", 22)
    if (
        line[:22] != _BEGIN
        or line[comma : comma + 9] != _BODY
        or line[-151:-141] != _PREV
        or line[-77:-67] != _HASH
        or line[-3:] != _END
    ):
        return None
    escaped = line[comma + 9 : -151]
    body = escaped.replace('\\"', '"')
    if "\\" in body or len(escaped) - len(body) != body.count('"'):
        return None
    prev, entry_hash = bytes.fromhex(line[-141:-77]), bytes.fromhex(line[-67:-3])
    return int(line[22:comma]), body, prev, entry_hash


def verify_export(
    lines: Iterable[str],
    keys: list[PublicKey],
    anchors: Iterable[str] = (),
    tell: Callable[[int], object] = lambda entries: None,
) -> Report:
    """Verify the lines of an export. `tell` is called with the count of entries now and then.

    Raises ValueError where a line is none of an export's.
    """
    return verify_files([lines], keys, anchors, tell)


def verify_files(
    files: Iterable[Iterable[str]],
    keys: list[PublicKey],
    anchors: Iterable[str] = (),
    tell: Callable[[int], object] = lambda entries: None,
) -> Report:
    """Verify segments and the export that follows them, each as its lines, as one chain. Raises
    ValueError."""
    notes = list(anchors)
    chained, selected = Files(keys, notes, tell), None
    for count, lines in enumerate(files):
        iterator = iter(lines)
        head = next(iterator, None)
        is_selection = head is not None and json.loads(head).get("selection") is True
        if selected is not None or (is_selection and count):
            raise ValueError("a selection is no part of a chain: name it alone")
        if is_selection:
            selected = _verify_selection(iterator, Selection(keys, notes), tell)
        else:
            chained.read(iterator if head is None else chain([head], iterator))
    report = selected or chained.report()
    report.anchors = len(notes)
    return report


def _row(told: dict[str, Any]) -> Row:
    return told["seq"], told["body"], bytes.fromhex(told["prev"]), bytes.fromhex(told["hash"])


class Files:
    """Reads files that follow one another into one verifier. `part`: others look after those
    before them."""

    def __init__(
        self,
        keys: list[PublicKey],
        anchors: Iterable[str] = (),
        tell: Callable[[int], object] = lambda entries: None,
        part: bool = False,
    ) -> None:
        self._keys, self._anchors, self._tell, self._part = keys, list(anchors), tell, part
        self._verifier: Verifier | None = None
        self._begun = False  # the anchors are told once it is known where the first file begins
        self._batch: list[Row] = []

    def read(self, lines: Iterable[str]) -> None:
        """The lines of the next file. Raises ValueError."""
        for line in lines:
            entry = plain_entry(line)
            if entry is not None:
                self._entry(entry)
                continue
            row = json.loads(line)
            kind = row.get("type")
            if kind == "entry":
                self._entry(_row(row))
            elif kind == "checkpoint":
                self._flush().expect_note(row["note"])
            elif kind == "segment":
                self._segment(Tree.from_text(row["tree"]), bytes.fromhex(row["prev"]))
            elif kind == "rotation":
                self._started().rotated_before(Rotation.from_json(row))
            elif kind != "export":
                raise ValueError(f"not a line of an export: {line[:60]}")
        if self._batch:
            self._flush()

    @property
    def tree(self) -> Tree:
        """The tree of all that was read."""
        return self._flush().tree

    @property
    def prev(self) -> bytes:
        """The hash that the next entry follows from."""
        return self._flush().prev

    def report(self) -> Report:
        """The verdicts over all of them."""
        return self._flush().report()

    def _started(self) -> Verifier:
        if self._verifier is None:
            self._verifier = Verifier(keys=self._keys)
        return self._verifier

    def _segment(self, tree: Tree, prev: bytes) -> None:
        """A file that does not begin at entry 1."""
        if self._verifier is None:
            self._verifier = Verifier(tree, prev, self._keys)
            if not self._part:
                self._verifier.ask_for_what_is_before()
            return
        verifier = self._flush()
        if (verifier.tree.to_text(), verifier.prev) != (tree.to_text(), prev):
            text = f"A file goes on behind entry {tree.size}, the one before it ends with entry "
            verifier.skip(tree, prev, f"{text}{verifier.size}.")

    def _entry(self, row: Row) -> None:
        self._batch.append(row)
        if len(self._batch) == BATCH:
            self._tell(self._flush().size)

    def _flush(self) -> Verifier:
        verifier = self._started()
        if not self._begun:
            self._begun = True
            for note in self._anchors:
                verifier.expect_note(note)
        verifier.add_all(self._batch)
        self._batch.clear()
        return verifier


def _verify_selection(
    lines: Iterable[str], selection: Selection, tell: Callable[[int], object]
) -> Report:
    for count, line in enumerate(lines, 1):
        row = json.loads(line)
        kind = row.get("type")
        if kind == "rotation":
            selection.rotated_before(Rotation.from_json(row))
        elif kind == "checkpoint":
            selection.meet(row["note"])
        elif kind == "entry":
            proof = row.get("proof")
            selection.add(_row(row), None if proof is None else [bytes.fromhex(p) for p in proof])
        else:
            raise ValueError(f"not a line of a selection: {line[:60]}")
        if count % BATCH == 0:
            tell(count)
    return selection.report()


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Check an export of Switchboard's audit trail.")
    parser.add_argument(
        "export", nargs="+", help="the export, JSONL, behind its segments; - for standard input"
    )
    parser.add_argument("--key", action="append", required=True, help="file of public keys")
    parser.add_argument("--anchors", help="file of checkpoints that left the machine")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    args = parser.parse_intermixed_args(argv)
    try:
        report = _run(args)
    except RecursionError:
        print("Cannot be read: it is nested too deeply", file=sys.stderr)
        return 2
    except (OSError, *UNREADABLE) as exc:
        print(f"Cannot be read: {exc}", file=sys.stderr)
        return 2
    print(json.dumps(report.to_json()) if args.json else describe(report))
    if report.selection:
        return 3 if report.intact and report.anchored else 1
    return 0 if report.ok else 1


def _run(args: argparse.Namespace) -> Report:
    keys = []
    for path in args.key:
        with open(path, encoding="utf-8") as file:
            keys.append(read_keys(file))
    anchors: list[str] = []
    if args.anchors:
        with open(args.anchors, encoding="utf-8") as file:
            anchors = list(read_anchors(file))
        if not anchors:
            raise ValueError(f"there are no anchors in {args.anchors}")
    return verify_files(_lines(args.export), keys, anchors)


def _lines(paths: Iterable[str]) -> Iterator[Iterable[str]]:
    for path in paths:
        if path == "-":
            yield sys.stdin
            continue
        with open(path, encoding="utf-8", newline="\n") as file:
            yield file


def describe(report: Report) -> str:
    """The verdicts for people."""
    span = f"entries {report.first_seq:,} to {report.last_seq:,}" if report.entries else "no entry"
    lines = [f"{report.entries:,} entries ({span}), {report.checkpoints:,} checkpoints"]
    lines[0] += f", compared with {report.anchors:,} anchors" if report.anchors else ""
    for verdict in ("intact", "anchored", "complete"):
        holds = "yes" if getattr(report, verdict) else "NO"
        untold = report.selection and verdict == "complete"
        lines.append(f"  {verdict:<10}{'a selection cannot tell' if untold else holds}")
    if report.bad_seq is not None:
        lines.append(f"First bad entry: {report.bad_seq:,}")
    lines += [f"- {text}" for text in report.problems]
    lines += [f"Note: {text}" for text in report.warnings]
    if report.first_seq > 1 and not report.selection:
        lines.append(f"The {report.first_seq - 1:,} entries before are not in these files.")
    after = report.last_seq - report.last_checkpoint
    if report.ok and after > 0:
        lines.append(f"The last {after:,} entries are after the newest checkpoint.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
