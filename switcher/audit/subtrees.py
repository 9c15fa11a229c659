"""The subtrees that proofs are made from, kept as the trail grows. Made again from the hashes of
the entries at any time."""

from __future__ import annotations

from django.db import transaction

from switcher.audit.archive_files import last_archived
from switcher.audit.ledger_reader import MAX_SEQ, newest_checkpoint, stored_hashes
from switcher.audit.verifier.subtrees import BLOCK, BLOCK_LEVEL, newest_block, number
from switcher.audit.verifier.switchboard_verify import Tree, node
from switcher.models import Subtree

# In one go at most: half a million entries, which takes some seconds.
MAX_BLOCKS = 2048
_AT_ONCE = 64


def keep(most: int = MAX_BLOCKS) -> bool:
    """Add the subtrees over what was signed since the last time, `most` blocks of them. Returns
    whether there are more."""
    last = newest_checkpoint()
    first, end = _next_block(), last.size // BLOCK if last is not None else 0
    for begin in range(first, min(end, first + most), _AT_ONCE):
        with transaction.atomic():
            _keep_blocks(begin, min(end, first + most, begin + _AT_ONCE))
    return first + most < end


def rebuild() -> None:
    """Make them all again."""
    Subtree.objects.all().delete()
    while keep():
        pass


def _next_block() -> int:
    """Behind the newest one that is stored, or behind what was moved out of the database."""
    known = Subtree.objects.filter(pk__lt=MAX_SEQ)
    largest = known.order_by("-pk").values_list("pk", flat=True).first()
    return max(newest_block(largest) + 1 if largest else 0, -(-last_archived() // BLOCK))


def _keep_blocks(begin: int, end: int) -> None:
    made: dict[tuple[int, int], bytes] = {}
    for block in range(begin, end):
        hashes = _hashes(block)
        if len(hashes) != BLOCK:
            break  # for the verifier to tell of; no proof leads through it
        tree = Tree()
        tree.extend(hashes)
        _put(made, BLOCK_LEVEL, block, tree.peaks[0])
    rows = [Subtree(id=number(*place), hash=found) for place, found in made.items()]
    # Another process may keep the same ones, and they are the same.
    Subtree.objects.bulk_create(rows, ignore_conflicts=True)


def _put(made: dict[tuple[int, int], bytes], level: int, index: int, found: bytes) -> None:
    """Add a subtree, and those that are full with it."""
    while True:
        made[level, index] = found
        if not index & 1:
            return
        left = made.get((level, index - 1)) or _stored(level, index - 1)
        if left is None:
            return  # it lies in what was moved out
        level, index, found = level + 1, index >> 1, node(left, found)


def _stored(level: int, index: int) -> bytes | None:
    rows = Subtree.objects.filter(pk=number(level, index)).values_list("hash", flat=True)
    return next((bytes(found) for found in rows), None)


def _hashes(block: int) -> list[bytes]:
    return [found for _, found in stored_hashes(block * BLOCK, (block + 1) * BLOCK)]
