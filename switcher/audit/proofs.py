"""The proof that an entry is in a checkpoint: the hashes that lead from it to the signed root.

What is read is bounded: the block of 256 entries around it, the newest block, and the stored
subtrees beside the way up, whatever the number of entries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from switcher.audit.archive_files import end_of, newest_archive_file
from switcher.audit.ledger_reader import newest_checkpoint, stored_hashes
from switcher.audit.verifier.subtrees import (
    BLOCK,
    BLOCK_LEVEL,
    Range,
    Subtree,
    block_nodes,
    join,
    number,
    parts,
    path,
    peaks,
)
from switcher.audit.verifier.switchboard_verify import BadNote, Note, fold, leaf, node
from switcher.models import LedgerRow
from switcher.models import Subtree as SubtreeRow

# So many blocks may be read for one proof where their subtrees are not stored yet.
MAX_BLOCKS = 256


class NoProof(Exception):
    """There is none, now or at all; the text says why."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Why an entry is in a checkpoint: `fold` leads from its hash by `hashes` to the root."""

    seq: int
    body: str
    prev: bytes
    hash: bytes
    size: int
    note: str
    hashes: tuple[bytes, ...]

    @property
    def holds(self) -> bool:
        """Whether the hash is that of the body, and leads to the root in the note. That the note
        is signed is not looked at here."""
        try:
            root = fold(self.hash, self.seq - 1, self.size, self.hashes)
            return leaf(self.prev, self.body) == self.hash and root == Note.parse(self.note).root
        except (ValueError, BadNote):
            return False

    def to_json(self) -> dict[str, object]:
        """Two lines of an export in one object: the checkpoint, and the entry with its proof."""
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
    """The proof that an entry is in the newest checkpoint. Raises NoProof."""
    last = newest_checkpoint()
    if last is None or last.size < seq:
        raise NoProof("It is not signed yet. That takes a minute at most while a server runs.")
    row = LedgerRow.objects.filter(pk=seq).first()
    if row is None:
        raise NoProof("The entry is not in the database any more.")
    hashes = tuple(Prover(last.size).proof(seq))
    return Proof(seq, row.body, bytes(row.prev), bytes(row.hash), last.size, last.note, hashes)


class Prover:
    """Makes proofs for the tree of a size. Entries in their order cost little each: a block is
    read once, and what is above it is the same for all in it."""

    def __init__(self, size: int) -> None:
        self._size = size
        archived = newest_archive_file()
        self._known = peaks(end_of(archived)[0]) if archived is not None else {}
        self._blocks: dict[int, dict[Subtree, bytes]] = {}
        self._above: tuple[int, list[bytes]] = (-1, [])
        self._left = MAX_BLOCKS

    def proof(self, seq: int) -> list[bytes]:
        """The hashes from the entry up to the root. Raises NoProof."""
        index = seq - 1
        block = index >> BLOCK_LEVEL
        inside, above = list[Range](), list[Range]()
        for found in path(index, self._size):
            begin, end = found
            near = begin >> BLOCK_LEVEL == block and end - begin <= BLOCK
            (inside if near else above).append(found)
        if self._above[0] != block:
            self._left = MAX_BLOCKS
            self._above = (block, self._upper(above))
        nodes = self._block(block)
        return [self._near(nodes, found) for found in inside] + self._above[1]

    def _near(self, nodes: dict[Subtree, bytes], found: Range) -> bytes:
        try:
            return join([nodes[place] for place in parts(*found)])
        except KeyError as exc:
            raise NoProof("An entry beside it is missing.") from exc

    def _upper(self, ranges: list[Range]) -> list[bytes]:
        wanted = [parts(*found) for found in ranges]
        stored = _stored(place for places in wanted for place in places)
        return [join([self._node(place, stored) for place in places]) for places in wanted]

    def _node(self, place: Subtree, stored: dict[Subtree, bytes]) -> bytes:
        """A full subtree: as it is stored, else from its own parts."""
        level, index = place
        found = stored.get(place) or self._known.get(place)
        if found is not None:
            return found
        if level <= BLOCK_LEVEL:
            return self._near(self._block(index << level >> BLOCK_LEVEL), _leaves(place))
        if (1 << level - BLOCK_LEVEL) > self._left:
            raise NoProof("The server is still putting together what proofs are made from.")
        left, right = (level - 1, 2 * index), (level - 1, 2 * index + 1)
        stored = _stored((left, right))
        return node(self._node(left, stored), self._node(right, stored))

    def _block(self, block: int) -> dict[Subtree, bytes]:
        nodes = self._blocks.get(block)
        if nodes is None:
            self._left -= 1
            begin = block << BLOCK_LEVEL
            known = {p: h for p, h in self._known.items() if p[1] << p[0] >= begin}
            nodes = block_nodes(_leaf_hashes(begin, min(begin + BLOCK, self._size)), known)
            if len(self._blocks) > 2:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[block] = nodes
        return nodes


def _leaves(place: Subtree) -> Range:
    level, index = place
    return index << level, index + 1 << level


def _stored(places: Iterable[Subtree]) -> dict[Subtree, bytes]:
    by_number = {number(*place): place for place in places if place[0] >= BLOCK_LEVEL}
    rows = SubtreeRow.objects.filter(pk__in=list(by_number)).values_list("pk", "hash")
    return {by_number[pk]: bytes(found) for pk, found in rows}


def _leaf_hashes(begin: int, end: int) -> dict[int, bytes]:
    """Hashes of the leaves from `begin` on, before `end`, by their index."""
    return {seq - 1: found for seq, found in stored_hashes(begin, end)}
