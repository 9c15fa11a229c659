"""The proof that an entry is in the last checkpoint: from few hashes, and never a wrong one."""

from __future__ import annotations

import pytest

from switcher.audit import checkpoints, subtrees
from switcher.audit import proofs as proving
from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.audit.ledger_reader import newest_checkpoint
from switcher.audit.proofs import NoProof, Prover, proof_of
from switcher.audit.signer import Signer
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.subtrees import BLOCK, block_nodes, newest_block, number, parts, path
from switcher.audit.verifier.switchboard_verify import GENESIS, Tree, fold, leaf, node
from switcher.models import ArchiveFile, LedgerRow, Subtree
from tests import make
from tests.audit.conftest import tell

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]


def leaves(count: int) -> list[bytes]:
    return [leaf(GENESIS, str(n)) for n in range(count)]


def root(hashes: list[bytes]) -> bytes:
    tree = Tree()
    tree.extend(hashes)
    return tree.root()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 32, 33])
def test_a_path_has_the_siblings_of_rfc_6962(size: int) -> None:
    hashes = leaves(size)
    for index in range(size):
        proof = [root(hashes[begin:end]) for begin, end in path(index, size)]
        assert fold(hashes[index], index, size, proof) == root(hashes)


def test_the_parts_of_a_span_are_adjacent_full_subtrees() -> None:
    for begin, end in path(5, 29):
        covered = [i for level, n in parts(begin, end) for i in range(n << level, n + 1 << level)]
        assert covered == list(range(begin, end))


def test_numbers_of_subtrees_are_unique_and_the_newest_block_has_the_largest() -> None:
    places = [(level, n) for level in range(8, 14) for n in range(64 >> level - 8)]
    assert len({number(*place) for place in places}) == len(places)
    for upto in range(1, 64):
        full = [number(level, n) for level, n in places if (n + 1) << level - 8 <= upto]
        assert newest_block(max(full)) == upto - 1


def test_known_subtrees_stand_in_for_missing_leaves() -> None:
    hashes = leaves(16)
    whole = block_nodes(dict(enumerate(hashes)), {})
    known = {(2, 0): whole[2, 0], (1, 2): whole[1, 2]}
    rest = block_nodes({n: hashes[n] for n in range(6, 16)}, known)
    assert rest[4, 0] == whole[4, 0] == root(hashes)
    assert node(whole[3, 0], whole[3, 1]) == whole[4, 0]


@pytest.fixture
def signed(proofs: KeyFiles) -> int:
    """Three blocks and a bit, signed; the number of entries."""
    for n in range(3 * BLOCK + 40):
        tell(host="north-1", number=n)
    checkpoints.sign()
    last = newest_checkpoint()
    assert last is not None
    return last.size


def all_hold(size: int, after: int = 0) -> bool:
    """Each by itself, and as an export makes them one after the other."""
    prover = Prover(size)
    found = [(proof_of(seq), prover.proof(seq)) for seq in range(after + 1, size + 1, 5)]
    return all(proof.holds and list(proof.hashes) == hashes for proof, hashes in found)


def test_every_entry_is_proved_before_and_after_subtrees_are_stored(signed: int) -> None:
    assert Subtree.objects.count() == 0
    assert all_hold(signed)
    assert subtrees.keep() is False
    assert Subtree.objects.count() == 4  # three blocks, and two of them together
    assert all_hold(signed)


def test_subtrees_stored_in_steps_are_the_same(signed: int) -> None:
    assert subtrees.keep(max_blocks=1) is True
    assert subtrees.keep(max_blocks=1) is True
    assert subtrees.keep(max_blocks=1) is False
    bit_by_bit = list(Subtree.objects.order_by("pk").values_list("pk", "hash"))
    subtrees.rebuild()
    assert list(Subtree.objects.order_by("pk").values_list("pk", "hash")) == bit_by_bit


def test_the_server_stores_subtrees_when_it_signs(signed: int, proofs: KeyFiles) -> None:
    Signer().sign()
    assert Subtree.objects.count() == 4


def test_a_proof_reads_two_blocks_at_most(signed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    subtrees.keep()
    read: list[int] = []
    real = proving._leaf_hashes

    def counted(begin: int, end: int) -> dict[int, bytes]:
        found = real(begin, end)
        read.append(len(found))
        return found

    monkeypatch.setattr(proving, "_leaf_hashes", counted)
    for seq in (1, BLOCK, BLOCK + 1, 2 * BLOCK + 100, signed):
        read.clear()
        assert proof_of(seq).holds
        assert 0 < sum(read) <= 2 * BLOCK


def test_a_changed_entry_has_no_proof_that_holds(signed: int) -> None:
    subtrees.keep()
    drop_triggers()
    body = LedgerRow.objects.get(pk=100).body.replace("anna", "mallory")
    LedgerRow.objects.filter(pk=100).update(body=body)
    assert not proof_of(100).holds
    prev = bytes(LedgerRow.objects.get(pk=100).prev)
    LedgerRow.objects.filter(pk=100).update(hash=leaf(prev, body))
    make_triggers()
    assert not proof_of(100).holds
    assert not proof_of(101).holds  # its sibling is another one now
    assert proof_of(3 * BLOCK).holds


def test_a_forged_subtree_proves_nothing(signed: int) -> None:
    subtrees.keep()
    Subtree.objects.filter(pk=number(8, 1)).update(hash=b"x" * 32)
    assert not proof_of(1).holds
    subtrees.rebuild()
    assert proof_of(1).holds


def test_an_unsigned_entry_has_no_proof_yet(signed: int) -> None:
    entry = tell()
    with pytest.raises(NoProof, match="not signed yet"):
        proof_of(entry.seq)
    with pytest.raises(NoProof, match="not in the database"):
        proof_of(0)


def test_the_number_of_blocks_read_without_subtrees_is_limited(
    signed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "MAX_BLOCKS", 1)
    with pytest.raises(NoProof, match="still preparing"):
        proof_of(3 * BLOCK + 1)
    subtrees.keep()
    assert proof_of(3 * BLOCK + 1).holds


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("last", [BLOCK, BLOCK + 77, 2 * BLOCK + 255])
def test_entries_are_proved_after_older_ones_were_archived(
    signed: int, last: int, kept: bool
) -> None:
    if kept:
        subtrees.keep()
    hashes = LedgerRow.objects.filter(seq__lte=last).order_by("seq").values_list("hash", flat=True)
    tree = Tree()
    tree.extend([bytes(found) for found in hashes])
    moved = LedgerRow.objects.get(pk=last)
    drop_triggers()  # no entry tells of this segment, which is made here
    ArchiveFile.objects.create(
        first=1, last=last, last_at=make.NOW, name="s", size=0, sha256="",
        prev=bytes(moved.hash).hex(), tree=tree.to_text(), entry=signed, at=make.NOW,
    )  # fmt: skip
    LedgerRow.objects.filter(seq__lte=last).delete()
    make_triggers()
    subtrees.keep()
    assert all_hold(signed, after=last)
