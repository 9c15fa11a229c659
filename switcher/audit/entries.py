"""Entries of the trail for its pages: lists, details, the history of a person or host."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from switcher.audit.entry_descriptions import describe, outcome_text, short_model, status_style
from switcher.audit.filters import Filters
from switcher.audit.ledger_reader import (
    MAX_SEQ,
    facts_of,
    index_row,
    newest_seq,
    read_body,
    salted,
)
from switcher.audit.proofs import NoProof, Proof, proof_of
from switcher.audit.reviews import REVIEWED, ReviewMark
from switcher.audit.search import matching
from switcher.audit.verifier.switchboard_verify import leaf
from switcher.domain.states import ENDED, WORDS
from switcher.domain.wording import came_from
from switcher.models import AuditEntry, LedgerRow, Origin, Review

PAGE = 50
MAX_COUNTED = 1000

OUTCOMES = {state.value: WORDS[state] for state in sorted(ENDED)}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry in a list. `status_style` is ok, failed, warning, none or empty."""

    seq: int
    at: datetime
    kind: str
    actor: str
    came_from: str
    host: str
    model: str
    names: tuple[str, ...]  # model names that the description may hold
    description: str
    reason: str
    outcome: str
    status_style: str
    degraded: bool
    restored: bool
    switch_id: int | None
    reviews: tuple[ReviewMark, ...]

    @property
    def day(self) -> date:
        return self.at.astimezone(UTC).date()

    @property
    def can_be_reviewed(self) -> bool:
        """Return whether it can be reviewed: marks of review need no review themselves."""
        return self.kind != REVIEWED

    @property
    def not_reviewed_by(self) -> tuple[str, ...]:
        """Return who may not or need not review it: the actor, and those who already have."""
        return (self.actor, *(mark.by for mark in self.reviews))


@dataclass(frozen=True, slots=True)
class Page:
    """At most PAGE entries, newest first. `older` and `newer` are numbers to page from, or None.
    `unreviewed` is how many unreviewed entries match, in words, or empty.
    """

    rows: tuple[Entry, ...]
    newest: int
    older: int | None
    newer: int | None
    unreviewed: str = ""


def page(filters: Filters, before: int | None = None, after: int | None = None) -> Page:
    """Return one page. `before` pages to older entries, `after` back to newer ones."""
    newest = newest_seq()
    if after is not None:
        rows = matching(filters, after=after).order_by("seq")
        following = list(rows.values_list("seq", flat=True)[: PAGE + 1])
        if len(following) > PAGE:
            seqs = following[:PAGE][::-1]
            return Page(entries(seqs), newest, older=seqs[-1], newer=seqs[0])
        before = None  # Nothing is newer than this page: show the first page, which is full.
    counts = filters.unreviewed and before is None
    rows = matching(filters, before=MAX_SEQ if before is None else before).order_by("-seq")
    found = list(rows.values_list("seq", flat=True)[: (MAX_COUNTED if counts else PAGE) + 1])
    seqs = found[:PAGE]
    return Page(
        entries(seqs),
        newest,
        older=seqs[-1] if len(found) > PAGE else None,
        newer=None if before is None else max(seqs, default=before - 1),
        unreviewed=_up_to_max(len(found)) if counts else "",
    )


def _up_to_max(count: int) -> str:
    return f"{count:,}" if count <= MAX_COUNTED else f"more than {MAX_COUNTED:,}"


def entries(seqs: Sequence[int]) -> tuple[Entry, ...]:
    """Return these entries in this order, in three queries."""
    rows = AuditEntry.objects.select_related("origin").in_bulk(list(seqs))
    bodies = dict(LedgerRow.objects.filter(pk__in=seqs).values_list("seq", "body"))
    reviews = _reviews(seqs)
    return tuple(
        _entry(rows[seq], read_body(bodies.get(seq, "")), reviews.get(seq, ()))
        for seq in seqs
        if seq in rows
    )


def _reviews(seqs: Iterable[int]) -> dict[int, tuple[ReviewMark, ...]]:
    found: dict[int, tuple[ReviewMark, ...]] = {}
    for row in Review.objects.filter(seq__in=list(seqs)).order_by("id"):
        found[row.seq] = (*found.get(row.seq, ()), ReviewMark.of(row))
    return found


def last_review() -> ReviewMark | None:
    """Return the newest mark of review."""
    row = Review.objects.order_by("-id").first()
    return ReviewMark.of(row) if row is not None else None


def _entry(row: AuditEntry, body: dict[str, Any], reviews: tuple[ReviewMark, ...]) -> Entry:
    facts = facts_of(body)
    names = (row.model, str(facts.get("previous") or ""))
    ip = row.origin.ip if row.origin else None
    return Entry(
        seq=row.seq,
        at=row.at,
        kind=row.kind,
        actor=row.actor,
        came_from=came_from(str(body.get("source") or ""), ip),
        host=row.host,
        model=short_model(row.model),
        names=tuple(short_model(name) for name in names if name),
        description=describe(row.kind, row.host, facts),
        reason=row.reason,
        outcome=outcome_text(row.outcome),
        status_style=status_style(row.kind, row.outcome),
        degraded=bool(facts.get("degraded")),
        restored=bool(facts.get("restored")),
        switch_id=row.switch_id,
        reviews=reviews,
    )


# -- One entry in full


@dataclass(frozen=True, slots=True)
class RequestOrigin:
    """The origin of an action. `attested` says whether the stored values match the hashes in the
    body; None if nothing is stored."""

    source: str
    ip: str
    agent: str
    erased_at: datetime | None
    attested: bool | None


@dataclass(frozen=True, slots=True)
class EntryDetail:
    """The details of an entry. `no_proof` says why `proof` is None."""

    entry: Entry
    body: str
    indented: str  # the formatted body; empty if it is not valid
    prev: str
    hash: str
    hash_fits: bool
    altered: tuple[str, ...]  # the columns that differ from the body
    origin: RequestOrigin
    proof: Proof | None
    no_proof: str
    earlier: int | None
    later: int | None


def detail(seq: int) -> EntryDetail | None:
    """Return one entry in full; None if the database has no such entry."""
    if seq > MAX_SEQ:
        return None
    index = AuditEntry.objects.select_related("origin").filter(pk=seq).first()
    row = LedgerRow.objects.filter(pk=seq).first()
    if index is None or row is None:
        return None
    proof, no_proof = _proof(seq)
    body, prev, stored_hash = read_body(row.body), bytes(row.prev), bytes(row.hash)
    stored = set(LedgerRow.objects.filter(pk__in=(seq - 1, seq + 1)).values_list("pk", flat=True))
    return EntryDetail(
        entry=_entry(index, body, _reviews([seq]).get(seq, ())),
        body=row.body,
        indented=json.dumps(body, indent=2, ensure_ascii=False) if body else "",
        prev=prev.hex(),
        hash=stored_hash.hex(),
        hash_fits=leaf(prev, row.body) == stored_hash,
        altered=_altered(index, row.body),
        origin=_origin(index.origin, body),
        proof=proof,
        no_proof=no_proof,
        earlier=seq - 1 if seq - 1 in stored else None,
        later=seq + 1 if seq + 1 in stored else None,
    )


_LABELS = {
    "seq": "number",
    "at": "when",
    "kind": "kind",
    "actor": "who",
    "host": "host",
    "switch_id": "switch",
    "model": "model",
    "outcome": "outcome",
    "reason": "why",
}


def _altered(row: AuditEntry, body: str) -> tuple[str, ...]:
    """Return the columns of the index that differ from the body, which alone is evidence."""
    expected = index_row(body)
    if expected is None:
        return tuple(_LABELS.values())
    return tuple(label for name, label in _LABELS.items() if getattr(row, name) != expected[name])


def _proof(seq: int) -> tuple[Proof | None, str]:
    try:
        return proof_of(seq), ""
    except NoProof as exc:
        return None, str(exc)


def _origin(row: Origin | None, body: dict[str, Any]) -> RequestOrigin:
    source = came_from(str(body.get("source") or ""), None)
    if row is None or row.erased_at is not None:
        return RequestOrigin(source, "", "", row.erased_at if row else None, None)
    attested = salted(row.ip, row.agent, bytes(row.salt)) == body.get("from")
    return RequestOrigin(source, row.ip or "", row.agent, None, attested)


# -- The history of a person or a host


@dataclass(frozen=True, slots=True)
class History:
    """A summary of the history of a person or a host. `count` stops at MAX_COUNTED; `more` says
    that there are more entries."""

    first: datetime
    last: datetime
    count: int
    more: bool
    ended: tuple[tuple[str, int], ...]  # the switches among those counted, by their outcome


def history(filters: Filters) -> History | None:
    """Return the history of the person or host in the filter; None if the trail has no entry."""
    rows = matching(filters)
    oldest, newest = rows.order_by("seq").first(), rows.order_by("-seq").first()
    if oldest is None or newest is None:
        return None
    last = list(rows.order_by("-seq").values_list("outcome", flat=True)[: MAX_COUNTED + 1])
    counted = last[:MAX_COUNTED]
    ended = Counter(outcome for outcome in counted if outcome)
    return History(
        first=oldest.at,
        last=newest.at,
        count=len(counted),
        more=len(last) > MAX_COUNTED,
        ended=tuple((outcome_text(outcome), ended[outcome]) for outcome in sorted(ended)),
    )
