"""The proof that an entry is in a checkpoint: from few hashes, and never a wrong one."""

from __future__ import annotations

import pytest

from switcher.audit import checkpoints
from switcher.audit import proofs as proving
from switcher.audit.archiving import archive
from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.audit.ledger_reader import stored_hashes
from switcher.audit.proofs import NoProof, path, proof_of
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verifier.switchboard_verify import GENESIS, Tree, fold, leaf
from switcher.models import Checkpoint, LedgerRow
from tests import make
from tests.audit.conftest import ANNA, tell, tell_many

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


GAPS = (1, 6, 64, 65, 1, 33)


@pytest.fixture
def signed(proofs: KeyFiles) -> int:
    """Checkpoints some entries apart; the number of entries."""
    for gap in GAPS:
        tell_many(gap, host="north-1")
        checkpoints.sign()
    return Checkpoint.objects.order_by("-size").values_list("size", flat=True)[0]


def test_every_entry_is_proved_in_the_first_checkpoint_over_it(signed: int) -> None:
    sizes = sorted(Checkpoint.objects.values_list("size", flat=True))
    for seq in range(1, signed + 1):
        proof = proof_of(seq)
        assert proof.holds
        assert proof.size == next(size for size in sizes if size >= seq)


def test_a_proof_reads_only_the_entries_since_the_checkpoint_before(
    signed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(after: int, upto: int) -> list[tuple[int, bytes]]:
        found = stored_hashes(after, upto)
        read.append(len(found))
        return found

    monkeypatch.setattr(proving, "stored_hashes", counted)
    for seq in (1, 50, 100, signed):
        read.clear()
        assert proof_of(seq).holds
        assert 0 < sum(read) <= max(GAPS)


def test_a_changed_entry_has_no_proof_that_holds(signed: int) -> None:
    drop_triggers()
    body = LedgerRow.objects.get(pk=100).body.replace("anna", "mallory")
    LedgerRow.objects.filter(pk=100).update(body=body)
    assert not proof_of(100).holds
    prev = bytes(LedgerRow.objects.get(pk=100).prev)
    LedgerRow.objects.filter(pk=100).update(hash=leaf(prev, body))
    make_triggers()
    assert not proof_of(100).holds
    assert not proof_of(101).holds  # its sibling is another one now
    assert proof_of(signed).holds


@pytest.mark.parametrize("text", ["no tree", "0:", "7:" + ",".join(["00" * 32] * 3)])
def test_a_forged_tree_proves_nothing_false(signed: int, text: str) -> None:
    before = Checkpoint.objects.get(size=proof_of(100).size)
    Checkpoint.objects.filter(pk=before.pk).update(tree=text)
    proof = proof_of(before.size + 1)
    assert proof.holds is (text[0] != "7")  # without the tree, it is made from all entries


def test_entries_are_proved_when_checkpoints_are_lost(signed: int) -> None:
    proof_over = proof_of(100).size
    Checkpoint.objects.filter(size=proof_over).delete()
    proof = proof_of(100)
    assert proof.holds
    assert proof.size > proof_over


def test_without_a_neighbour_there_is_no_proof(signed: int) -> None:
    drop_triggers()
    LedgerRow.objects.filter(pk=100).delete()
    make_triggers()
    with pytest.raises(NoProof, match="neighbouring entry is missing"):
        proof_of(101)


def test_entries_are_proved_after_older_ones_were_archived(signed: int) -> None:
    moved = archive(make.AFTER_ALL, ANNA, max_entries=100)
    assert moved is not None
    checkpoints.sign()
    for seq in LedgerRow.objects.order_by("seq").values_list("seq", flat=True):
        assert seq > moved.last
        assert proof_of(seq).holds


def test_an_unsigned_entry_has_no_proof_yet(signed: int) -> None:
    entry = tell()
    with pytest.raises(NoProof, match="not signed yet"):
        proof_of(entry.seq)
    with pytest.raises(NoProof, match="not in the database"):
        proof_of(0)
