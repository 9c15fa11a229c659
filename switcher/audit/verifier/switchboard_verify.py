#!/usr/bin/env python3
"""Check an export of Switchboard's audit trail on a machine of your own.

    python3 switchboard_verify.py export.jsonl --key audit-keys.pub [--anchors anchors.txt]
    python3 switchboard_verify.py archive-1.jsonl archive-2.jsonl export.jsonl --key audit-keys.pub

Old entries may have been moved to archive files, which have the same format. Name these before the
export, oldest first, and everything is checked as one chain.

This one file needs Python 3.11 or later and the package `cryptography`. It needs nothing else of
Switchboard, no network and no database. Switchboard itself verifies with the same code.

Each line of an export is a JSON object. Its `type` is one of:
    export      {"made_at", "by", "filter", "selection"}: the first line
    segment     {"first", "prev", "tree"}: where the file begins, unless that is entry 1
    entry       {"seq", "body", "prev", "hash"}: the body as it was hashed, the hashes in hex; in a
                selection also {"proof"}: the hashes that lead to the root of the checkpoint before
    checkpoint  {"note"}: a signed note (https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint)
    rotation    {"old", "new", "old_signature", "new_signature"}: a key rotation before `first`

An entry's hash is SHA-256(0x00 || prev || body). It links the entry to the one before, and it is
the entry's leaf in an RFC 6962 Merkle tree, whose root the checkpoints sign with Ed25519. The body
is hashed as it is stored and never serialised again, so entries of all versions verify.

The first key in the file of keys is believed because you trust that file. A later key is believed
from the entry in which its predecessor vouches for it; from there on, the predecessor is not.

Three verdicts:
    intact      every entry follows from the one before it and is unchanged
    anchored    every checkpoint is signed by a believed key, and its root is that of these entries
    complete    no checkpoint, here or among the anchors, covers more entries than there are; and if
                entries are in archive files that were not named, a signed entry confirms that

A selection (an export with a filter) is not a chain. For a selection, intact means that no entry
was changed, and anchored that each entry's proof leads to the root of the signed checkpoint before
it in the file. It cannot show whether something was left out.

Exit codes: 0 all three hold; 1 one does not; 2 the files cannot be read; 3 a selection, for which
the first two hold.
The limit: entries after the newest anchored checkpoint can be cut off unnoticed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import heapq
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Any

GENESIS = bytes(32)
# What parsing raises if a text is not what it should be.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
ED25519 = 0x01
# No body that was written here has a lone surrogate; hashed like this, it differs from all others.
ENCODE_ERRORS = "surrogatepass"
_sha256 = hashlib.sha256

Row = tuple[int, str, bytes, bytes]  # an entry: seq, body, prev, hash


def leaf(prev: bytes, body: str) -> bytes:
    """Return an entry's hash: the link of the chain, and the leaf of the tree (RFC 6962)."""
    return _sha256(b"\0" + prev + body.encode("utf-8", ENCODE_ERRORS)).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node of the tree (RFC 6962)."""
    return _sha256(b"\1" + left + right).digest()


@dataclass(slots=True)
class Tree:
    """A Merkle tree that only grows, kept as its full subtrees, largest first: one hash for each
    bit that is set in `size`. Memory is constant: at most 64 hashes."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def extend(self, hashes: Sequence[bytes]) -> None:
        """Append leaves. Level by level, pairs become nodes; a node without a partner becomes a
        peak."""
        sha256, unpaired = _sha256, []
        level, size = list(hashes), self.size
        while level:
            if size & 1:
                level.insert(0, self.peaks.pop())
            if len(level) & 1:
                unpaired.append(level.pop())
            pairs = zip(level[::2], level[1::2], strict=True)
            level = [sha256(b"\1" + left + right).digest() for left, right in pairs]
            size >>= 1
        self.peaks += reversed(unpaired)
        self.size += len(hashes)

    def copy(self) -> Tree:
        """Return a tree that grows independently of this one."""
        return Tree(self.size, list(self.peaks))

    def root(self) -> bytes:
        """Return the root over all leaves. For an empty tree, this is the hash of nothing."""
        if not self.peaks:
            return _sha256(b"").digest()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node(peak, root)
        return root

    def to_text(self) -> str:
        """Return `size:peak,peak`, the peaks in hex."""
        return f"{self.size}:{','.join(p.hex() for p in self.peaks)}"

    @classmethod
    def from_text(cls, text: str) -> Tree:
        """Read what `to_text` wrote. Raises ValueError."""
        size, _, peaks = text.partition(":")
        tree = cls(int(size), [bytes.fromhex(p) for p in peaks.split(",") if p])
        if tree.size < 0 or tree.size.bit_count() != len(tree.peaks):
            raise ValueError("not a tree")
        return tree


def fold(entry_hash: bytes, index: int, size: int, proof: Iterable[bytes]) -> bytes:
    """Return the root to which an inclusion proof leads from the leaf at `index` (counted from 0)
    in a tree of `size` leaves (RFC 9162, 2.1.3.2). Raises ValueError if the proof has the wrong
    length."""
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


# -- Checkpoints and keys


class BadNote(ValueError):
    """The text is not a checkpoint, or none of the keys signed it."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 key as signed notes write it: `name+id+base64`."""

    name: str
    key: bytes  # 32 bytes

    @property
    def id(self) -> bytes:
        return _sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(bytes([ED25519]) + self.key)}"

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Read a key. Raises ValueError."""
        name, id_text, encoded = text.strip().split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        if len(raw) != 33 or raw[0] != ED25519 or not name:
            raise ValueError("not an Ed25519 key")
        key = cls(name, raw[1:])
        if key.id.hex() != id_text:
            raise ValueError("the key's id is not that of the key")
        return key

    def signed(self, signature: bytes, text: str) -> bool:
        """Return whether this key signed the text."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def read_keys(lines: Iterable[str]) -> PublicKey:
    """Return the first key in a file of keys, which is the only one that is believed without a
    rotation. Raises ValueError."""
    for line in lines:
        if line.strip():
            return PublicKey.from_text(line)
    raise ValueError("there is no key in the file")


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """Return the text of a checkpoint, which is what the key signs."""
    return f"{origin}\n{size}\n{_base64(root)}\n"


def signature_line(key: PublicKey, signature: bytes) -> str:
    """Return a signature as a line of a signed note."""
    return f"\u2014 {key.name} {_base64(key.id + signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint as a signed note: the number of entries and the root of their tree."""

    origin: str
    size: int
    root: bytes
    text: str
    signatures: str

    @classmethod
    def parse(cls, note: str) -> Note:
        """Read a note without checking its signatures. Raises BadNote."""
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
        """Return the key that signed it. Raises BadNote if none of them did."""
        known = list(keys)
        for line in self.signatures.splitlines():
            dash, _, rest = line.partition(" ")
            name, _, encoded = rest.partition(" ")
            try:
                raw = base64.b64decode(encoded, validate=True)
            except ValueError:
                continue
            if _base64(raw) != encoded:
                continue  # stray bits after the last byte: not as it was written
            for key in known:
                named = dash == "\u2014" and key.name == name and key.id == raw[:4]
                if named and key.signed(raw[4:], self.text):
                    return key
        raise BadNote("none of the known keys signed it")


def read_note(text: str, keys: Iterable[PublicKey]) -> Note:
    """Read a checkpoint and check that one of the keys signed it. Raises BadNote."""
    note = Note.parse(text)
    note.signer(keys)
    return note


# -- Statements that entries carry, with signatures of their own

ROTATED = "audit.key-rotated"
ARCHIVED = "audit.archived"


@dataclass(frozen=True, slots=True)
class Rotation:
    """The statement, signed by both keys, that one replaces the other."""

    old: PublicKey
    new: PublicKey
    old_signature: bytes
    new_signature: bytes

    @staticmethod
    def text(old: PublicKey, new: PublicKey) -> str:
        """Return the text that both keys sign."""
        return f"switchboard audit key rotation\n{old}\n{new}\n"

    @property
    def holds(self) -> bool:
        """Return whether both keys signed it."""
        text = self.text(self.old, self.new)
        return self.old.signed(self.old_signature, text) and self.new.signed(
            self.new_signature, text
        )

    def to_json(self) -> dict[str, str]:
        return {
            "old": str(self.old),
            "new": str(self.new),
            "old_signature": _base64(self.old_signature),
            "new_signature": _base64(self.new_signature),
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Rotation:
        """Read what `to_json` wrote. Raises one of UNREADABLE."""
        old, new = PublicKey.from_text(row["old"]), PublicKey.from_text(row["new"])
        names = ("old_signature", "new_signature")
        return cls(old, new, *(base64.b64decode(row[name], validate=True) for name in names))


@dataclass(frozen=True, slots=True)
class Archived:
    """The signed statement that entries were moved to an archive file. Anyone who can append an
    entry could claim that, but only the key can sign it."""

    first: int
    last: int
    sha256: str
    root: str  # of the tree of all entries up to the last one
    signature: bytes

    @staticmethod
    def text(first: int, last: int, sha256: str, root: str) -> str:
        """Return the text that the key signs."""
        return f"switchboard audit segment\n{first}\n{last}\n{sha256}\n{root}\n"

    def is_signed(self, keys: Iterable[PublicKey]) -> bool:
        """Return whether one of the keys signed it."""
        text = self.text(self.first, self.last, self.sha256, self.root)
        return any(key.signed(self.signature, text) for key in keys)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"signature": _base64(self.signature)}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Archived:
        """Read what `to_json` wrote. Raises one of UNREADABLE."""
        signature = base64.b64decode(row["signature"], validate=True)
        first, last = int(row["first"]), int(row["last"])
        return cls(first, last, str(row["sha256"]), str(row["root"]), signature)


class Keyring:
    """The keys that are believed at this point of the trail. A rotation replaces one of them."""

    def __init__(self, roots: Iterable[PublicKey] = ()) -> None:
        self._keys = {str(key): key for key in roots}
        self._ever = set(self._keys)

    def __iter__(self) -> Iterator[PublicKey]:
        return iter(list(self._keys.values()))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def rotate(self, rotation: Rotation) -> bool:
        """Believe the new key instead of the old one. Return False if the old one is not believed,
        or if one of the two did not sign."""
        if str(rotation.old) not in self._keys or not rotation.holds:
            return False
        del self._keys[str(rotation.old)]
        self._keys[str(rotation.new)] = rotation.new
        self._ever.add(str(rotation.new))
        return True

    def has_known(self, key: PublicKey) -> bool:
        """Return whether the key is believed now or was believed earlier."""
        return str(key) in self._ever


# -- Verdicts

MAX_MESSAGES = 20


@dataclass(slots=True)
class Report:
    """The verdicts, and what is wrong. `bad_seq` is the number of the first entry with a
    problem."""

    entries: int = 0
    first_seq: int = 0
    last_seq: int = 0
    root: str = ""
    checkpoints: int = 0
    anchors: int = 0  # checkpoints from elsewhere that were compared
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
        """Record that a verdict does not hold, and why."""
        setattr(self, verdict, False)
        if seq is not None and (self.bad_seq is None or seq < self.bad_seq):
            self.bad_seq = seq
        if len(self.problems) < MAX_MESSAGES:
            self.problems.append(text)

    def warn(self, text: str) -> None:
        """Record something odd that does not change a verdict."""
        if len(self.warnings) < MAX_MESSAGES:
            self.warnings.append(text)

    def fail_entry(self, row: Row, prev: bytes | None = None) -> None:
        """Record what is wrong with an entry. `prev` is the hash that it should follow, if that is
        known."""
        number, body, row_prev, row_hash = row
        if prev is not None and row_prev != prev:
            self.fail("intact", f"Entry {number} does not follow from the one before it.", number)
        if leaf(row_prev if prev is None else prev, body) != row_hash:
            self.fail("intact", f"Entry {number} was changed.", number)
        if not _states_number(body, number):
            self.fail("intact", f"Entry {number} states another number.", number)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def _states_number(body: str, number: int) -> bool:
    return body.startswith(f"{number},", body.rfind('"seq":') + 6)


# -- A chain

STATEMENTS = (f'{ROTATED}"', f'{ARCHIVED}"')  # the kinds of entries that a verifier reads


class Verifier:
    """Checks a chain. Pass it each checkpoint before the entries that it covers, and the entries in
    order; then `report` returns the verdicts.

    `keys` are believed at the beginning. A checkpoint is checked once the tree has reached its
    size, with the keys that are believed by then. Without keys, only the chain itself is checked.
    Memory is constant, except for the checkpoints that are still ahead.
    """

    def __init__(
        self, tree: Tree | None = None, prev: bytes = GENESIS, keys: Iterable[PublicKey] = ()
    ) -> None:
        self.tree = tree.copy() if tree is not None else Tree()
        self.prev = prev  # the hash that the next entry follows
        self._keys = Keyring(keys)
        self._at = ""
        self._began = self.tree.size
        # What an entry must say about the entries before the first one here, and which entry does.
        self._before: tuple[int, str] | None = None
        self._before_said_by = 0
        self._archived: set[tuple[int, int, str, str]] = set()
        # Checkpoints to come by size, each once; the sizes as a heap; those met at this size.
        self._to_come: dict[int, dict[Note, None]] = {}
        self._sizes: list[int] = []
        self._met: tuple[int, set[Note]] = 0, set()
        self._report = Report(first_seq=self.tree.size + 1, last_seq=self.tree.size)

    @property
    def size(self) -> int:
        """Return the number of entries in the tree."""
        return self.tree.size

    def begin_at(self, tree: Tree, prev: bytes) -> None:
        """Begin a file of entries that follow others. Unless those were read, an entry under a
        checkpoint has to say where they are."""
        if not self.tree.size:
            self._before = tree.size, tree.root().hex()
            self._report.first_seq = tree.size + 1
            self._continue_from(tree, prev)
        elif (self.tree.to_text(), self.prev) != (tree.to_text(), prev):
            text = f"A file begins after entry {tree.size}; the one before it ends with entry "
            self.skip(tree, prev, f"{text}{self.size}.")

    def says_archived(self, first: int, last: int, sha256: str, root: str) -> bool:
        """Return whether a signed entry says that these entries were moved to that file."""
        return (first, last, sha256, root) in self._archived

    def rotated_before(self, rotation: Rotation) -> None:
        """Apply a key rotation from before the next entry."""
        if not self._keys.has_known(rotation.new) and not self._keys.rotate(rotation):
            self._report.fail("anchored", "A change of key before these entries is not signed.")

    def skip(self, tree: Tree, prev: bytes, why: str) -> None:
        """Continue after missing entries, from the tree and the hash with which they are said to
        end. The next checkpoint shows whether these are right."""
        self._report.fail("complete", why)
        self._continue_from(tree, prev)

    def _continue_from(self, tree: Tree, prev: bytes) -> None:
        self.tree, self.prev, self._at, self._began = tree.copy(), prev, "", tree.size
        while self._sizes and self._sizes[0] < tree.size:
            del self._to_come[heapq.heappop(self._sizes)]

    def fail(self, verdict: str, text: str) -> None:
        """Record a problem that the caller found."""
        self._report.fail(verdict, text)

    # Checkpoints

    def expect(self, text: str) -> None:
        """Expect that the tree has this checkpoint's root when it reaches its size."""
        try:
            note = Note.parse(text)
        except BadNote as exc:
            self._bad_note(exc)
            return
        if note.size == self.tree.size:
            self._meet(note)
        elif note.size > self.tree.size:
            if note.size not in self._to_come:
                heapq.heappush(self._sizes, note.size)
            self._to_come.setdefault(note.size, {})[note] = None
        elif note.size >= self._began:
            text = f"The checkpoint over {note.size} entries came too late to be compared."
            self._report.fail("anchored", text)

    def _bad_note(self, why: BadNote) -> None:
        self._report.fail("anchored", f"A checkpoint cannot be believed: {why}.")

    def _meet(self, note: Note) -> None:
        """Check a checkpoint that has the size of the tree. If an anchor repeats a stored
        checkpoint, it is checked only once."""
        if self._met[0] != self.tree.size:
            self._met = self.tree.size, set()
        if note in self._met[1]:
            return
        self._met[1].add(note)
        if self._is_believed(note) and self.tree.root() != note.root:
            text = f"The checkpoint over {note.size} entries is not of these entries."
            self._report.fail("anchored", text)

    def _is_believed(self, note: Note) -> bool:
        try:
            note.signer(self._keys)
        except BadNote as exc:
            self._bad_note(exc)
            return False
        self._report.checkpoints += 1
        self._report.last_checkpoint = max(self._report.last_checkpoint, note.size)
        return True

    # Entries

    def add(self, rows: Sequence[Row]) -> None:
        """Check the next entries. Checking many at once takes half the time of checking them one by
        one."""
        while self._sizes:
            # Up to the next checkpoint, so that the tree can be compared there.
            fit = self._sizes[0] - self.tree.size
            if fit > len(rows):
                break
            self._add_run(rows[:fit])
            rows = rows[fit:]
            for note in self._to_come.pop(heapq.heappop(self._sizes)):
                self._meet(note)
        self._add_run(rows)

    def _add_run(self, rows: Sequence[Row]) -> None:
        """Check entries between two checkpoints, in a loop that may run a million times.

        A body is searched without being parsed. Its keys are sorted and only `facts` can be nested,
        so `at` is the first member of that name, and `kind` and `seq` are the last.
        """
        sha256, prev, seq, last_at = _sha256, self.prev, self.tree.size, self._at
        hashes = []
        for row in rows:
            number, body, row_prev, row_hash = row
            seq += 1
            if (
                sha256(b"\0" + prev + body.encode("utf-8", ENCODE_ERRORS)).digest() != row_hash
                or row_prev != prev
                or number != seq
                or not body.startswith(f"{seq},", body.rfind('"seq":') + 6)
            ):
                self._blame(row, seq, prev)
            found = body.find('"at":"') + 6
            at = body[found : found + 27]
            if at < last_at:
                text = f"The clock went back at entry {number}: {at!a} after {last_at!a}."
                self._report.warn(text)
            if body.startswith(STATEMENTS, body.rfind('"kind":"') + 8):
                self._read_statement(body, number)
            # Continue from the stored hash: one change is one problem, not one for each entry
            # after it.
            prev, last_at = row_hash, at
            hashes.append(row_hash)
        self.prev, self._at = prev, last_at
        self.tree.extend(hashes)
        self._report.entries += len(hashes)

    def _blame(self, row: Row, seq: int, prev: bytes) -> None:
        """Record what is wrong with an entry that should have number `seq` and follow `prev`."""
        number = row[0]
        if number != seq:
            missing = number > seq
            what = f"{seq} to {number - 1} are missing" if missing else f"{number} comes again"
            self._report.fail("intact", f"Entries are not in order: {what}.", min(seq, number))
            if missing:
                self._report.complete = False
        self._report.fail_entry(row, prev)

    def _read_statement(self, body: str, number: int) -> None:
        if body.startswith(ROTATED, body.rfind('"kind":"') + 8):
            self._read_rotation(body, number)
        else:
            self._read_archived(body, number)

    def _read_archived(self, body: str, number: int) -> None:
        """Remember that entries were moved to an archive file, if the key has signed that."""
        try:
            archived = Archived.from_json(json.loads(body)["facts"])
            signed = archived.is_signed(self._keys)
        except UNREADABLE:
            signed = False
        if signed:
            self._archived.add((archived.first, archived.last, archived.sha256, archived.root))
            if (archived.last, archived.root) == self._before:
                self._before_said_by = self._before_said_by or number
        elif self._keys:
            text = f"Entry {number} says that entries were archived, without the key's signature."
            self._report.warn(text)

    def _read_rotation(self, body: str, number: int) -> None:
        """Apply a key rotation. Anyone who can append an entry can write one; without the signature
        of a believed key it changes nothing and is reported."""
        try:
            rotation = Rotation.from_json(json.loads(body)["facts"])
        except UNREADABLE:
            self._report.warn(f"Entry {number} records a change of key that cannot be read.")
            return
        if self._keys and not self._keys.rotate(rotation):
            text = f"The change of key in entry {number} is not signed."
            self._report.fail("anchored", text, number)

    def report(self) -> Report:
        """Return the verdicts, after everything was passed in."""
        self.add([])  # meets the checkpoints at the end of a file that was skipped
        report = self._report
        report.last_seq = self.tree.size
        report.root = self.tree.root().hex()
        to_come = [note for notes in self._to_come.values() for note in notes]
        largest = max((note.size for note in to_come if self._is_believed(note)), default=0)
        if largest:
            text = f"A checkpoint covers {largest} entries; only {self.tree.size} are here."
            report.fail("complete", text, self.tree.size + 1)
        if not report.checkpoints:
            report.fail("anchored", "There is no checkpoint.")
        if self._before is not None and not 0 < self._before_said_by <= report.last_checkpoint:
            text = f"No signed entry here says that entries 1 to {self._before[0]} were archived."
            report.fail("complete", f"{text} Name their files first.")
        return report


# -- A selection


class Selection:
    """Checks single entries, each with the proof that it is in the signed checkpoint before it.
    `report` returns the verdicts except for `complete`, which a selection cannot show."""

    def __init__(self, keys: Iterable[PublicKey] = (), anchors: Iterable[str] = ()) -> None:
        self._keys = Keyring(keys)
        self._note: Note | None = None
        self._newer = 0
        self._report = Report(complete=False, selection=True)
        self._anchored: dict[int, set[bytes]] = {}  # the roots of the anchors, by size
        for anchor in anchors:
            try:
                note = Note.parse(anchor)
            except BadNote as exc:
                self._report.fail("anchored", f"An anchor cannot be believed: {exc}.")
            else:
                self._anchored.setdefault(note.size, set()).add(note.root)

    def rotated_before(self, rotation: Rotation) -> None:
        """Apply a key rotation from before the checkpoint."""
        if not self._keys.rotate(rotation):
            self._report.fail("anchored", "A change of key is not signed.")

    def expect(self, text: str) -> None:
        """Take the checkpoint that the proofs of the entries after it lead to."""
        try:
            note = read_note(text, self._keys)
        except BadNote as exc:
            self._report.fail("anchored", f"A checkpoint cannot be believed: {exc}.")
            return
        if note.size <= self._report.last_checkpoint:
            text = f"Checkpoints are not in order: the one over {note.size} entries comes late."
            self._report.fail("anchored", text)
            return
        if self._newer:
            text = f"{self._newer} entries before the checkpoint over {note.size} are not proved."
            self._report.fail("anchored", text)
        self._note = note
        self._report.checkpoints += 1
        self._report.last_checkpoint, self._report.root = note.size, note.root.hex()
        if self._anchored.get(note.size, {note.root}) != {note.root}:
            text = f"An anchor over {note.size} entries is not of these entries."
            self._report.fail("anchored", text)

    def add(self, row: Row, proof: list[bytes] | None) -> None:
        """Check the next entry; `proof` is None if the entry has none."""
        number, report = row[0], self._report
        if number <= report.last_seq:
            report.fail("intact", f"Entries are not in order: {number} comes late.", number)
        report.fail_entry(row)
        self._prove(number, row[3], proof)
        report.first_seq = report.first_seq or number
        report.last_seq = max(report.last_seq, number)
        report.entries += 1

    def _prove(self, number: int, entry_hash: bytes, proof: list[bytes] | None) -> None:
        if self._note is None or number > self._note.size:
            self._newer += 1
            return
        try:
            root = None if proof is None else fold(entry_hash, number - 1, self._note.size, proof)
        except ValueError:
            root = None
        if root != self._note.root:
            text = f"Entry {number} is not proved to be in the checkpoint."
            self._report.fail("anchored", text, number)

    def report(self) -> Report:
        """Return the verdicts, after everything was passed in."""
        if self._note is None and self._report.entries:
            self._report.fail("anchored", "There is no checkpoint.")
        elif self._newer:
            text = f"{self._newer} entries are newer than the checkpoint: nothing proves them."
            self._report.warn(text)
        return self._report


# -- Reading files

# A member `note` of a JSON object, also of one over several lines or inside another.
_NOTE = re.compile(r'"note"\s*:\s*("(?:[^"\\]|\\.)*")')


def read_anchors(lines: Iterable[str]) -> Iterator[str]:
    """Yield the notes in a file of anchors. They may be `note` members of JSON objects, with
    anything around them; JSON strings, one per line; or plain notes, one after the other."""
    note: list[str] = []
    for line in lines:
        found = _NOTE.findall(line) or ([line] if line.startswith('"') else [])
        for text in found:
            try:
                value = json.loads(text)
            except ValueError:
                continue  # cut off while it was written, and then written again
            if isinstance(value, str):
                yield value
        if found or line.lstrip()[:1] in ("{", "}", "[", "]", '"'):
            continue
        if line.startswith("\u2014"):
            yield "".join([*note, line])
            note = []
        elif line.strip() or note:
            note.append(line)


BATCH = 1000


def read_entry(line: dict[str, Any]) -> Row:
    """Return the entry in a line. Raises one of UNREADABLE."""
    return line["seq"], line["body"], bytes.fromhex(line["prev"]), bytes.fromhex(line["hash"])


def verify_files(
    files: Iterable[Iterable[str]], keys: list[PublicKey], anchors: Iterable[str] = ()
) -> Report:
    """Verify archive files and the export that follows them as one chain, or verify one selection.
    Each file is given as its lines. Raises ValueError."""
    notes = list(anchors)
    verifier, selection = Verifier(keys=keys), None
    for note in notes:
        verifier.expect(note)
    for count, lines in enumerate(files):
        iterator = iter(lines)
        head = list(islice(iterator, 1))
        is_selection = bool(head) and json.loads(head[0]).get("selection") is True
        if selection is not None or (is_selection and count):
            raise ValueError("a selection is no part of a chain: name it alone")
        if is_selection:
            selection = Selection(keys, notes)
            _read_selection(selection, iterator)
        else:
            read_chain(verifier, chain(head, iterator))
    report = (selection or verifier).report()
    report.anchors = len(notes)
    return report


def read_chain(verifier: Verifier, lines: Iterable[str]) -> None:
    """Read the lines of a file into a verifier. Raises one of UNREADABLE."""
    batch: list[Row] = []
    for line in lines:
        row = json.loads(line)
        kind = row.get("type")
        if kind == "entry":
            batch.append(read_entry(row))
        if batch and (kind != "entry" or len(batch) == BATCH):
            verifier.add(batch)
            batch = []
        if kind == "checkpoint":
            verifier.expect(row["note"])
        elif kind == "segment":
            verifier.begin_at(Tree.from_text(row["tree"]), bytes.fromhex(row["prev"]))
        elif kind == "rotation":
            verifier.rotated_before(Rotation.from_json(row))
        elif kind not in {"entry", "export"}:
            raise ValueError(f"not a line of an export: {line[:60]}")
    verifier.add(batch)


def _read_selection(selection: Selection, lines: Iterable[str]) -> None:
    for line in lines:
        row = json.loads(line)
        kind = row.get("type")
        if kind == "rotation":
            selection.rotated_before(Rotation.from_json(row))
        elif kind == "checkpoint":
            selection.expect(row["note"])
        elif kind == "entry":
            proof = row.get("proof")
            hashes = None if proof is None else [bytes.fromhex(text) for text in proof]
            selection.add(read_entry(row), hashes)
        else:
            raise ValueError(f"not a line of a selection: {line[:60]}")


# -- The command


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description="Check an export of Switchboard's audit trail.")
    parser.add_argument(
        "export", nargs="+", help="archive files, then the export; - for standard input"
    )
    parser.add_argument("--key", action="append", required=True, help="file of public keys")
    parser.add_argument("--anchors", help="file of checkpoints that were kept elsewhere")
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
    return verify_files(_open_each(args.export), keys, anchors)


def _open_each(paths: Iterable[str]) -> Iterator[Iterable[str]]:
    for path in paths:
        if path == "-":
            yield sys.stdin
            continue
        with open(path, encoding="utf-8", newline="\n") as file:
            yield file


def describe(report: Report) -> str:
    """Return the verdicts as text for people."""
    span = f"entries {report.first_seq:,} to {report.last_seq:,}" if report.entries else "no entry"
    lines = [f"{report.entries:,} entries ({span}), {report.checkpoints:,} checkpoints"]
    lines[0] += f", compared with {report.anchors:,} anchors" if report.anchors else ""
    for verdict in ("intact", "anchored", "complete"):
        answer = "yes" if getattr(report, verdict) else "NO"
        if report.selection and verdict == "complete":
            answer = "a selection cannot tell"
        lines.append(f"  {verdict:<10}{answer}")
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
