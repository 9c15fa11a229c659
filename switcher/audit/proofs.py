"""Prove that an entry is in a checkpoint, by the hashes that lead from it to the signed root.

The work is bounded, however many entries there are: a proof reads the block of 256 entries around
the entry, the newest block, and the stored subtrees beside the path to the root.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from switcher.audit.archive_files import end_of, newest_archive_file
from switcher.audit.ledger_reader import newest_checkpoint, stored_hashes
from switcher.audit.subtrees import (
    BLOCK,
    BLOCK_LEVEL,
    Place,
    Span,
    block_nodes,
    join,
    number,
    parts,
    path,
    peaks,
)
from switcher.audit.verifier.switchboard_verify import BadNote, Note, fold, leaf, node
from switcher.models import LedgerRow, Subtree

# How many blocks whose subtrees are not stored yet may be read for one proof.
MAX_BLOCKS = 256


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
    """Return the proof that an entry is in the newest checkpoint. Raises NoProof."""
    last = newest_checkpoint()
    if last is None or last.size < seq:
        raise NoProof("It is not signed yet. That takes a minute at most while a server runs.")
    row = LedgerRow.objects.filter(pk=seq).first()
    if row is None:
        raise NoProof("The entry is not in the database any more.")
    hashes = tuple(Prover(last.size).proof(seq))
    return Proof(seq, row.body, bytes(row.prev), bytes(row.hash), last.size, last.note, hashes)


class Prover:
    """Makes proofs for a tree of `size` entries. Proving entries in order is cheap: each block is
    read once, and its entries share the hashes above it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        archived = newest_archive_file()
        self._known = peaks(end_of(archived)[0]) if archived is not None else {}
        self._blocks: dict[int, dict[Place, bytes]] = {}
        self._above: tuple[int, list[bytes]] = (-1, [])  # of the last block
        self._blocks_left = MAX_BLOCKS

    def proof(self, seq: int) -> list[bytes]:
        """Return the hashes from the entry up to the root. Raises NoProof."""
        block = seq - 1 >> BLOCK_LEVEL
        inside, above = list[Span](), list[Span]()
        for begin, end in path(seq - 1, self._size):
            is_inside = begin >> BLOCK_LEVEL == block and end - begin <= BLOCK
            (inside if is_inside else above).append((begin, end))
        if self._above[0] != block:
            self._blocks_left = MAX_BLOCKS
            self._above = (block, self._hashes_above(above))
        nodes = self._block(block)
        return [_join_parts(nodes, span) for span in inside] + self._above[1]

    def _hashes_above(self, spans: list[Span]) -> list[bytes]:
        places = [parts(*span) for span in spans]
        stored = _stored(place for span_places in places for place in span_places)
        return [join([self._subtree(place, stored) for place in found]) for found in places]

    def _subtree(self, place: Place, stored: dict[Place, bytes]) -> bytes:
        """Return the hash of a full subtree, stored or computed from its parts."""
        found = stored.get(place) or self._known.get(place)
        if found is not None:
            return found
        level, index = place
        if level <= BLOCK_LEVEL:
            leaves = (index << level, index + 1 << level)
            return _join_parts(self._block(leaves[0] >> BLOCK_LEVEL), leaves)
        if (1 << level - BLOCK_LEVEL) > self._blocks_left:
            raise NoProof(
                "The server is still preparing the data for proofs. Try again in a moment."
            )
        left, right = (level - 1, 2 * index), (level - 1, 2 * index + 1)
        stored = _stored((left, right))
        return node(self._subtree(left, stored), self._subtree(right, stored))

    def _block(self, block: int) -> dict[Place, bytes]:
        """Return all full subtrees within a block."""
        nodes = self._blocks.get(block)
        if nodes is None:
            self._blocks_left -= 1
            begin = block << BLOCK_LEVEL
            known = {p: h for p, h in self._known.items() if p[1] << p[0] >= begin}
            nodes = block_nodes(_leaf_hashes(begin, min(begin + BLOCK, self._size)), known)
            if len(self._blocks) > 2:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[block] = nodes
        return nodes


def _join_parts(nodes: dict[Place, bytes], span: Span) -> bytes:
    try:
        return join([nodes[place] for place in parts(*span)])
    except KeyError as exc:
        raise NoProof("A neighbouring entry is missing.") from exc


def _stored(places: Iterable[Place]) -> dict[Place, bytes]:
    by_number = {number(*place): place for place in places if place[0] >= BLOCK_LEVEL}
    rows = Subtree.objects.filter(pk__in=list(by_number)).values_list("pk", "hash")
    return {by_number[pk]: bytes(found) for pk, found in rows}


def _leaf_hashes(begin: int, end: int) -> dict[int, bytes]:
    """Return the hashes of the leaves from index `begin` up to, but not including, `end`."""
    return {seq - 1: found for seq, found in stored_hashes(begin, end)}
