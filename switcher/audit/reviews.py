"""Marks of review by auditors. Each mark is an entry of its own."""

from __future__ import annotations

from collections.abc import Iterable

from switcher.audit.ledger import Actor, append, writing
from switcher.audit.review_marks import REVIEWED
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest, Conflict, NotFound
from switcher.models import AuditEntry, LedgerRow, Review

MAX_AT_ONCE = 100
MAX_NOTE = 500


def review(seqs: Iterable[int], actor: Actor, note: str = "", clock: Clock = system) -> int:
    """Mark entries as reviewed by this person, and return how many were not marked before.

    Raises BadRequest, NotFound, and Conflict if all were marked or one is the person's own.
    """
    numbers = sorted(set(seqs))
    _check(numbers, note)
    with writing():
        hashes = _hashes(numbers)
        _check_not_own(numbers, actor)
        marked = Review.objects.filter(seq__in=numbers, by=actor.name)
        new = sorted(set(numbers) - set(marked.values_list("seq", flat=True)))
        if not new:
            raise Conflict("You have reviewed them already.")
        reviewed = [{"hash": hashes[seq], "seq": seq} for seq in new]
        entry = append(REVIEWED, actor, clock=clock, reason=note, entries=reviewed)
        Review.objects.bulk_create(
            Review(seq=seq, by=actor.name, at=entry.at, note=note) for seq in new
        )
    return len(new)


def _check(numbers: list[int], note: str) -> None:
    if not numbers:
        raise BadRequest("Select the entries that you have reviewed.")
    if len(numbers) > MAX_AT_ONCE:
        raise BadRequest(f"At most {MAX_AT_ONCE} entries can be marked at once.")
    if "\0" in note:
        raise BadRequest("A note is plain text.", "note")
    if len(note) > MAX_NOTE:
        raise BadRequest(f"A note has at most {MAX_NOTE} characters.", "note")


def _hashes(numbers: list[int]) -> dict[int, str]:
    """Return the hashes of the entries: a mark names the text that was reviewed, not only its
    number."""
    rows = LedgerRow.objects.filter(pk__in=numbers).values_list("seq", "hash")
    hashes = {seq: bytes(entry_hash).hex() for seq, entry_hash in rows}
    missing = [seq for seq in numbers if seq not in hashes]
    if missing:
        raise NotFound(f"There is no entry {missing[0]}.")
    return hashes


def _check_not_own(numbers: list[int], actor: Actor) -> None:
    own = AuditEntry.objects.filter(seq__in=numbers, actor=actor.name).order_by("seq")
    seq = own.values_list("seq", flat=True).first()
    if seq is not None:
        raise Conflict(f"Entry {seq} is your own. Somebody else has to review it.")
