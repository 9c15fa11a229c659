"""Which subtrees of a Merkle tree a proof is made of. Pure: hashes come from elsewhere.

A full subtree is `(level, index)`: the leaves from `index << level` on, `1 << level` of them.
Leaves count from 0.
"""

from __future__ import annotations

from switcher.audit.verifier.switchboard_verify import Tree, node

Subtree = tuple[int, int]
Range = tuple[int, int]

# Proofs are put together from blocks of 256 leaves; of smaller subtrees nothing is stored.
BLOCK_LEVEL = 8
BLOCK = 1 << BLOCK_LEVEL


def number(level: int, index: int) -> int:
    """The number of a subtree in an in-order walk: one integer for both. Of all full subtrees of
    at least a level, the newest of that level has the largest."""
    return (2 * index + 1) << level


def newest_block(largest: int) -> int:
    """The index of the newest block, from the largest number there is."""
    return largest >> BLOCK_LEVEL + 1


def path(leaf: int, size: int) -> list[Range]:
    """The leaves under each sibling of an inclusion proof, from the leaf upwards (RFC 6962, 2.1.1).
    All but the last leaf of a range are under full subtrees."""
    begin, end, found = 0, size, []
    while end - begin > 1:
        half = begin + (1 << (end - begin - 1).bit_length() - 1)
        if leaf < half:
            found.append((half, end))
            end = half
        else:
            found.append((begin, half))
            begin = half
    return found[::-1]


def parts(begin: int, end: int) -> list[Subtree]:
    """The full subtrees that a range of `path` is made of, largest first."""
    found = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        found.append((level, begin >> level))
        begin += 1 << level
    return found


def join(hashes: list[bytes]) -> bytes:
    """The hash over the parts of a range."""
    return Tree(0, hashes).root()


def peaks(tree: Tree) -> dict[Subtree, bytes]:
    """The full subtrees that a tree is made of, by their place."""
    return dict(zip(parts(0, tree.size), tree.peaks, strict=True))


def block_nodes(leaves: dict[int, bytes], known: dict[Subtree, bytes]) -> dict[Subtree, bytes]:
    """All full subtrees up to a block's own over these leaves; `known` stand in for leaves that
    are not here any more."""
    nodes = {(0, index): leaf for index, leaf in leaves.items()}
    nodes |= {place: found for place, found in known.items() if place[0] < BLOCK_LEVEL}
    for level in range(BLOCK_LEVEL):
        rights = [i for at, i in nodes if at == level and i & 1 and (level, i - 1) in nodes]
        for right in rights:
            above = node(nodes[level, right - 1], nodes[level, right])
            nodes[level + 1, right >> 1] = above
    return nodes
