"""Prove that an entry is in a checkpoint, by the hashes that lead from it to the signed root.

An entry is proved in the first checkpoint that covers it. Every hash of such a proof is either a
peak of the tree that the checkpoint before it signed, or follows from the entries between the two.
So a proof reads what one checkpoint added, however many entries there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from switcher.audit.ledger_reader import checkpoint_over, newest_checkpoint, stored_hashes
from switcher.audit.verifier.switchboard_verify import BadNote, Note, Tree, fold, leaf
from switcher.models import Checkpoint, LedgerRow

Span = tuple[int, int]  # the leaves from the first number on, before the second; counted from 0


class NoProof(Exception):
    """There is no proof, at least for the moment; the text says why."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The proof that an entry is in a checkpoint: `fold` leads from the entry's hash, by `hashes`,
    to the checkpoint's root."""

    seq: int
    body: str
    prev: bytes
    hash: bytes
    size: int
    note: str
    hashes: tuple[bytes, ...]

    @property
    def holds(self) -> bool:
        """Return whether the body's hash leads to the root in the note, without checking the note's
        signature.
        """
        try:
            root = fold(self.hash, self.seq - 1, self.size, self.hashes)
            return leaf(self.prev, self.body) == self.hash and root == Note.parse(self.note).root
        except (ValueError, BadNote):
            return False

    def to_json(self) -> dict[str, object]:
        """Return two lines of an export: the checkpoint, and the entry with its proof."""
        return {
            "checkpoint": {"type": "checkpoint", "note": self.note},
            "entry": {
                "type": "entry",
                "seq": self.seq,
                "body": self.body,
                "prev": self.prev.hex(),
                "hash": self.hash.hex(),
                "proof": [sibling.hex() for sibling in self.hashes],
            },
        }


def proof_of(seq: int) -> Proof:
    """Return the proof that an entry is in a checkpoint. Raises NoProof."""
    checkpoint = checkpoint_over(seq)
    if checkpoint is None:
        raise NoProof("It is not signed yet. That takes a minute at most while a server runs.")
    row = LedgerRow.objects.filter(pk=seq).first()
    if row is None:
        raise NoProof("The entry is not in the database any more.")
    prev, entry_hash, hashes = bytes(row.prev), bytes(row.hash), Prover(checkpoint).proof(seq)
    return Proof(seq, row.body, prev, entry_hash, checkpoint.size, checkpoint.note, tuple(hashes))


class Prover:
    """Proves the entries that a checkpoint covers and the one before it does not."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        before = newest_checkpoint(checkpoint.size - 1)
        self._size = checkpoint.size
        self._known = _tree_of(before) if before is not None else Tree()
        starts = _peak_starts(self._known.size)
        self._peaks = list(zip(starts, self._known.peaks, strict=True))
        self._leaves = [found for _, found in stored_hashes(self._known.size, self._size)]
        self._roots: dict[Span, bytes] = {}  # entries share most of the hashes that prove them

    def proof(self, seq: int) -> list[bytes]:
        """Return the hashes from the entry up to the root. Raises NoProof."""
        if len(self._leaves) != self._size - self._known.size:
            raise NoProof("A neighbouring entry is missing.")
        return [self._root(span) for span in path(seq - 1, self._size)]

    def _root(self, span: Span) -> bytes:
        """Return the root over a span: peaks of the tree before, then leaves."""
        if span not in self._roots:
            (begin, end), known = span, self._known.size
            peaks = [peak for start, peak in self._peaks if begin <= start < end]
            tree = Tree(max(0, min(known, end) - begin), peaks)
            tree.extend(self._leaves[max(0, begin - known) : max(0, end - known)])
            self._roots[span] = tree.root()
        return self._roots[span]


def path(leaf: int, size: int) -> list[Span]:
    """Return the leaves under each sibling of an inclusion proof, from the leaf upwards (RFC 6962,
    2.1.1)."""
    begin, end, spans = 0, size, []
    while end - begin > 1:
        half = begin + (1 << (end - begin - 1).bit_length() - 1)
        if leaf < half:
            spans.append((half, end))
            end = half
        else:
            spans.append((begin, half))
            begin = half
    return spans[::-1]


def _peak_starts(size: int) -> list[int]:
    """Return the first leaf under each peak of a tree, largest peak first."""
    levels = reversed(range(size.bit_length()))
    return [size >> level + 1 << level + 1 for level in levels if size >> level & 1]


def _tree_of(checkpoint: Checkpoint) -> Tree:
    """Return the tree that a checkpoint signed. If it was changed, no proof made with it holds."""
    try:
        return Tree.from_text(checkpoint.tree)
    except ValueError:
        return Tree()
