"""The full subtrees of the trail's Merkle tree, from which proofs are made.

A full subtree is `(level, index)`: it has `1 << level` leaves, beginning with leaf `index <<
level`, counted from 0. Subtrees of at least a block (256 leaves) are stored as the trail grows, so
that a proof need not read all entries. They can be made again from the hashes of the entries at any
time.
"""

from __future__ import annotations

from django.db import transaction

from switcher.audit.archive_files import last_archived
from switcher.audit.ledger_reader import MAX_SEQ, newest_checkpoint, stored_hashes
from switcher.audit.verifier.switchboard_verify import Tree, node
from switcher.models import Subtree

Place = tuple[int, int]  # level and index of a full subtree
Span = tuple[int, int]  # the leaves from the first number on, before the second

BLOCK_LEVEL = 8
BLOCK = 1 << BLOCK_LEVEL
# Blocks added in one transaction: half a million entries, which takes some seconds.
MAX_BLOCKS = 2048
BATCH_BLOCKS = 64


# -- Where subtrees are


def number(level: int, index: int) -> int:
    """Return the number of a subtree in an in-order walk, which encodes level and index in one
    integer. Of all stored subtrees, the newest block has the largest number."""
    return (2 * index + 1) << level


def newest_block(largest: int) -> int:
    """Return the index of the newest block, given the largest number of a stored subtree."""
    return largest >> BLOCK_LEVEL + 1


def path(leaf: int, size: int) -> list[Span]:
    """Return the range of leaves under each sibling of an inclusion proof, from the leaf upwards
    (RFC 6962, 2.1.1)."""
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


def parts(begin: int, end: int) -> list[Place]:
    """Return the full subtrees that make up a range of leaves from `path`, largest first."""
    places = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        places.append((level, begin >> level))
        begin += 1 << level
    return places


def join(hashes: list[bytes]) -> bytes:
    """Return the hash over the subtrees of such a range."""
    return Tree(0, hashes).root()


def peaks(tree: Tree) -> dict[Place, bytes]:
    """Return the full subtrees that make up a tree of this size."""
    return dict(zip(parts(0, tree.size), tree.peaks, strict=True))


def block_nodes(leaves: dict[int, bytes], known: dict[Place, bytes]) -> dict[Place, bytes]:
    """Return all full subtrees over these leaves, up to the block itself. Known subtrees replace
    leaves that are no longer in the database.
    """
    nodes = {(0, index): leaf for index, leaf in leaves.items()}
    nodes |= {place: found for place, found in known.items() if place[0] < BLOCK_LEVEL}
    for level in range(BLOCK_LEVEL):
        rights = [i for at, i in nodes if at == level and i & 1 and (level, i - 1) in nodes]
        for right in rights:
            parent = node(nodes[level, right - 1], nodes[level, right])
            nodes[level + 1, right >> 1] = parent
    return nodes


# -- The stored subtrees


def keep(max_blocks: int = MAX_BLOCKS) -> bool:
    """Store the subtrees of newly signed entries. Return whether some remain to be stored."""
    last = newest_checkpoint()
    first, end = _next_block(), last.size // BLOCK if last is not None else 0
    stop = min(end, first + max_blocks)
    for begin in range(first, stop, BATCH_BLOCKS):
        with transaction.atomic():
            _store_blocks(begin, min(stop, begin + BATCH_BLOCKS))
    return first + max_blocks < end


def rebuild() -> None:
    """Store all subtrees again."""
    Subtree.objects.all().delete()
    while keep():
        pass


def _next_block() -> int:
    """Return the index of the first block that is not stored yet. Blocks of archived entries count
    as stored."""
    stored = Subtree.objects.filter(pk__lt=MAX_SEQ)
    largest = stored.order_by("-pk").values_list("pk", flat=True).first()
    return max(newest_block(largest) + 1 if largest else 0, -(-last_archived() // BLOCK))


def _store_blocks(begin: int, end: int) -> None:
    made: dict[Place, bytes] = {}
    for block in range(begin, end):
        hashes = [found for _, found in stored_hashes(block * BLOCK, (block + 1) * BLOCK)]
        if len(hashes) != BLOCK:
            break  # The verifier reports the missing entry; no proof leads through this block.
        tree = Tree()
        tree.extend(hashes)
        _add(made, BLOCK_LEVEL, block, tree.peaks[0])
    rows = [Subtree(id=number(*place), hash=found) for place, found in made.items()]
    # Another process may store the same ones at the same time.
    Subtree.objects.bulk_create(rows, ignore_conflicts=True)


def _add(made: dict[Place, bytes], level: int, index: int, found: bytes) -> None:
    """Add a subtree, and the larger ones that it completes."""
    made[level, index] = found
    while index & 1:
        left = made.get((level, index - 1)) or _stored(level, index - 1)
        if left is None:
            return  # its entries are archived
        level, index, found = level + 1, index >> 1, node(left, found)
        made[level, index] = found


def _stored(level: int, index: int) -> bytes | None:
    rows = Subtree.objects.filter(pk=number(level, index)).values_list("hash", flat=True)
    return next((bytes(found) for found in rows), None)
