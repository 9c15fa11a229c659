"""Marks of review: by auditors, never on one's own work, each an entry that names what was seen."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from switcher.audit.filters import Filters
from switcher.audit.reviews import MAX_AT_ONCE, review
from switcher.audit.search_index import rebuild
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verification import verify
from switcher.domain.errors import BadRequest, Conflict, NotFound
from switcher.models import AuditEntry, LedgerRow, Review
from switcher.records import Actor
from tests import make
from tests.audit.conftest import find, tell, tell_many

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

ARNO = Actor("arno", "page")


def test_a_mark_is_a_row_and_an_entry_with_the_hash_of_what_was_seen() -> None:
    seqs = tell_many(2)
    assert review(seqs, ARNO, "looks right") == 2
    entry = AuditEntry.objects.get(kind="audit.reviewed")
    hashes = [bytes(LedgerRow.objects.get(pk=seq).hash).hex() for seq in seqs]
    assert (entry.actor, entry.reason) == ("arno", "looks right")
    assert entry.facts["entries"] == [
        {"hash": told, "seq": seq} for seq, told in zip(seqs, hashes, strict=True)
    ]
    assert set(Review.objects.values_list("seq", "by", "note")) == {
        (seq, "arno", "looks right") for seq in seqs
    }


def test_what_was_reviewed_is_found_no_more_and_a_mark_is_no_work() -> None:
    first, second = tell_many(2)
    review([first], ARNO)
    assert find(Filters(unreviewed=True)) == [second]


def test_the_same_person_marks_an_entry_once_and_another_may_as_well() -> None:
    first, second = tell_many(2)
    review([first], ARNO)
    assert review([first, second], ARNO) == 1
    with pytest.raises(Conflict, match="already"):
        review([first], ARNO)
    assert review([first], Actor("berta", "page")) == 1


@pytest.mark.parametrize(
    ("seqs", "note", "error"),
    [
        ([], "", BadRequest),
        ([99], "", NotFound),
        ([1], "n" * 501, BadRequest),
        (list(range(1, MAX_AT_ONCE + 2)), "", BadRequest),
        ([1], "no\0text", BadRequest),
    ],
)
def test_what_cannot_be_marked_leaves_nothing(
    seqs: list[int], note: str, error: type[Exception]
) -> None:
    tell()
    with pytest.raises(error):
        review(seqs, ARNO, note)
    assert (Review.objects.count(), AuditEntry.objects.count()) == (0, 1)


def test_nobody_reviews_their_own_work() -> None:
    own = tell(actor=ARNO).seq
    other = tell().seq
    with pytest.raises(Conflict, match=f"Entry {own} is your own"):
        review([own, other], ARNO)
    assert Review.objects.count() == 0


# -- Marks are no evidence


def forge(seq: int, by: str = "arno", **values: Any) -> None:
    Review.objects.create(seq=seq, by=by, **{"at": make.NOW, "note": "fine"} | values)


def differing() -> tuple[int | None, tuple[int, ...]]:
    found = verify(index=True)
    return found.index_differs, found.index_first


def test_a_mark_that_no_entry_tells_of_is_named(proofs: KeyFiles) -> None:
    first, second, third = tell_many(3)
    review([first], ARNO, "looks right")
    assert differing() == (0, ())
    forge(second)
    forge(third, "berta")
    assert differing() == (2, (second, third))


@pytest.mark.parametrize(
    "change", [{"by": "berta"}, {"note": "I saw nothing"}, {"at": make.NOW - timedelta(days=9)}]
)
def test_a_mark_that_was_changed_is_named(proofs: KeyFiles, change: dict[str, Any]) -> None:
    (seq,) = tell_many(1)
    review([seq], ARNO, "looks right")
    Review.objects.update(**change)
    assert differing()[1][0] == seq


def test_a_mark_that_was_removed_or_doubled_is_named(proofs: KeyFiles) -> None:
    first, second = tell_many(2)
    review([first, second], ARNO, "looks right")
    Review.objects.filter(seq=first).delete()
    copy = Review.objects.get(seq=second)
    copy.pk = None
    copy.save()
    assert differing() == (2, (first, second))


def test_marks_are_made_again_as_their_entries_tell_them(proofs: KeyFiles) -> None:
    first, second, third = tell_many(3)
    review([first, second], ARNO, "looks right")
    review([first], Actor("berta", "page"))
    before = set(Review.objects.values_list("seq", "by", "at", "note"))
    Review.objects.filter(seq=first).delete()
    Review.objects.filter(seq=second).update(by="mallory")
    forge(third)
    assert rebuild(ARNO) == (3, 2)
    assert set(Review.objects.values_list("seq", "by", "at", "note")) == before
    assert differing() == (0, ())
