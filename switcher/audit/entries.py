"""The audit trail as its pages show it: lines in pages, one entry, what is known of a person."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any

from django.db.models import Count

from switcher.audit.entry_descriptions import look, model_of, outcome_words, sentence
from switcher.audit.filters import Filters
from switcher.audit.ledger_reader import MAX_SEQ, index_row, newest_seq, salted
from switcher.audit.proofs import NoProof, Proof, proof_of
from switcher.audit.review_marks import REVIEWED
from switcher.audit.search import Found, distinct, find
from switcher.audit.verifier.switchboard_verify import leaf
from switcher.domain.states import ENDED, WORDS
from switcher.domain.wording import came_from
from switcher.models import AuditEntry, LedgerRow, Origin, Review

PAGE = 50
MAX_COUNTED = 1000

OUTCOMES = {state.value: WORDS[state] for state in sorted(ENDED)}


@dataclass(frozen=True, slots=True)
class Reviewed:
    by: str
    at: datetime
    note: str


@dataclass(frozen=True, slots=True)
class Line:
    """One entry in a line. `look` is ok, failed, warning or empty."""

    seq: int
    at: datetime
    kind: str
    actor: str
    came_from: str
    host: str
    model: str
    names: tuple[str, ...]  # model names that the sentence may hold
    sentence: str
    reason: str
    outcome: str
    look: str
    degraded: bool
    restored: bool
    switch_id: int | None
    reviews: tuple[Reviewed, ...]

    @property
    def can_be_reviewed(self) -> bool:
        """A mark of review is no work to be reviewed."""
        return self.kind != REVIEWED

    @property
    def done_by(self) -> tuple[str, ...]:
        """Who need not, or may not, review it any more: who did it, and who has reviewed it."""
        return (self.actor, *(review.by for review in self.reviews))


@dataclass(frozen=True, slots=True)
class Day:
    date: date
    rows: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """A number, and whether that is all, or there are at least so many."""

    number: int
    all: bool


@dataclass(frozen=True, slots=True)
class Page:
    """At most PAGE entries, newest first.

    `older` and `newer` are numbers to page from, or None. Where the search stopped before the page
    was full, `searched_to` is how far back it came, in time, and `older` goes on from there.
    """

    rows: tuple[Line, ...]
    days: tuple[Day, ...]
    newest: int
    older: int | None
    newer: int | None
    searched_to: datetime | None
    unreviewed: Counted | None


@dataclass(frozen=True, slots=True)
class Choices:
    """What the filters offer; of each at most 200."""

    hosts: tuple[str, ...]
    models: tuple[str, ...]
    people: tuple[str, ...]


def page(filters: Filters, before: int | None = None, after: int | None = None) -> Page:
    """One page. `before` pages to older entries, `after` back to newer ones."""
    newest = newest_seq()
    if after is not None:
        found = find(filters, PAGE, after=after)
        if found.more:
            seqs = found.seqs[::-1]
            end = found.went_to if found.went_to is not None else max(seqs, default=after)
            return _page(seqs, newest, older=min(seqs, default=after + 1), newer=end)
        before = None  # there are no more newer ones: the first page, which is full
    counts = filters.unreviewed and before is None
    found = find(filters, MAX_COUNTED + 1 if counts else PAGE, before=before)
    seqs = found.seqs[:PAGE]
    went_to = None if len(seqs) == PAGE else found.went_to
    older = went_to if went_to is not None else min(seqs, default=None)
    return _page(
        seqs,
        newest,
        older=older if found.more or len(found.seqs) > PAGE else None,
        newer=None if before is None else max(seqs, default=before - 1),
        searched_to=None if went_to is None else _time_of(went_to),
        unreviewed=_counted(found) if counts else None,
    )


def _counted(found: Found) -> Counted:
    """How many were found, up to MAX_COUNTED of them."""
    return Counted(min(len(found.seqs), MAX_COUNTED), not found.more)


def _page(
    seqs: Sequence[int],
    newest: int,
    older: int | None,
    newer: int | None,
    searched_to: datetime | None = None,
    unreviewed: Counted | None = None,
) -> Page:
    rows = lines(seqs)
    days = groupby(rows, key=lambda row: row.at.astimezone(UTC).date())
    by_day = tuple(Day(day, tuple(of_day)) for day, of_day in days)
    return Page(rows, by_day, newest, older, newer, searched_to, unreviewed)


def _time_of(seq: int) -> datetime | None:
    return AuditEntry.objects.filter(pk=seq).values_list("at", flat=True).first()


def choices() -> Choices:
    """What there is to choose from, each value once."""
    return Choices(distinct("host"), distinct("model"), distinct("actor"))


def last_review() -> Reviewed | None:
    """The newest mark of review."""
    row = Review.objects.order_by("-id").first()
    return Reviewed(row.by, row.at, row.note) if row is not None else None


def lines(seqs: Sequence[int]) -> tuple[Line, ...]:
    """These entries in this order; three queries, however many they are."""
    wanted = list(seqs)
    rows = AuditEntry.objects.select_related("origin").in_bulk(wanted)
    bodies = dict(LedgerRow.objects.filter(pk__in=wanted).values_list("seq", "body"))
    reviews = _reviews(wanted)
    return tuple(
        _line(rows[seq], read_body(bodies.get(seq, "")), reviews.get(seq, ()))
        for seq in wanted
        if seq in rows
    )


def body_of(seq: int) -> str:
    """The canonical text of a stored entry; empty where it is not in the database."""
    return LedgerRow.objects.filter(pk=seq).values_list("body", flat=True).first() or ""


def read_body(body: str) -> dict[str, Any]:
    """What a body tells; empty where it is none."""
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def facts_of(told: dict[str, Any]) -> dict[str, Any]:
    """The facts of a body that was read."""
    facts = told.get("facts")
    return facts if isinstance(facts, dict) else {}


def _reviews(seqs: Iterable[int]) -> dict[int, tuple[Reviewed, ...]]:
    found: dict[int, tuple[Reviewed, ...]] = {}
    for row in Review.objects.filter(seq__in=list(seqs)).order_by("id"):
        found[row.seq] = (*found.get(row.seq, ()), Reviewed(row.by, row.at, row.note))
    return found


def _line(row: AuditEntry, told: dict[str, Any], reviews: tuple[Reviewed, ...]) -> Line:
    facts, kind = facts_of(told), row.kind
    names = (row.model, str(facts.get("previous") or ""))
    return Line(
        seq=row.seq,
        at=row.at,
        kind=kind,
        actor=row.actor,
        came_from=came_from(str(told.get("source") or ""), row.origin.ip if row.origin else None),
        host=row.host,
        model=model_of(row.model),
        names=tuple(model_of(name) for name in names if name),
        sentence=sentence(kind, row.host, facts),
        reason=row.reason,
        outcome=outcome_words(row.outcome),
        look=look(kind, row.outcome),
        degraded=bool(facts.get("degraded")),
        restored=bool(facts.get("restored")),
        switch_id=row.switch_id,
        reviews=reviews,
    )


# -- One entry


@dataclass(frozen=True, slots=True)
class RequestOrigin:
    """From where somebody acted. Attested: what is stored has the hash that the body holds."""

    source: str
    ip: str
    agent: str
    erased_at: datetime | None
    attested: bool | None  # None: nothing is stored that could be compared


@dataclass(frozen=True, slots=True)
class Entry:
    """All that is shown of one entry. `proof` is None where there is none, and `no_proof` says
    why."""

    line: Line
    body: str
    indented: str  # the same for people; empty where it is no body
    prev: str
    hash: str
    hash_fits: bool
    forged: tuple[str, ...]  # what is shown otherwise than the body has it
    whence: RequestOrigin
    proof: Proof | None
    no_proof: str
    earlier: int | None
    later: int | None


def entry(seq: int) -> Entry | None:
    """One entry; None if there is none of this number."""
    if seq > MAX_SEQ:
        return None
    found = lines([seq])
    row = LedgerRow.objects.filter(pk=seq).first()
    if not found or row is None:
        return None
    proof, why = _proof(seq)
    prev, told_hash = bytes(row.prev), bytes(row.hash)
    return Entry(
        line=found[0],
        body=row.body,
        indented=_indented(row.body),
        prev=prev.hex(),
        hash=told_hash.hex(),
        hash_fits=leaf(prev, row.body) == told_hash,
        forged=_forged(seq, row.body),
        whence=_whence(seq, read_body(row.body)),
        proof=proof,
        no_proof=why,
        earlier=seq - 1 if LedgerRow.objects.filter(pk=seq - 1).exists() else None,
        later=seq + 1 if LedgerRow.objects.filter(pk=seq + 1).exists() else None,
    )


_SHOWN = {
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


def _forged(seq: int, body: str) -> tuple[str, ...]:
    """The columns to search by prove nothing: what of them is not as the body has it."""
    row, wanted = AuditEntry.objects.get(pk=seq), index_row(body)
    if wanted is None:
        return tuple(_SHOWN.values())
    return tuple(word for name, word in _SHOWN.items() if getattr(row, name) != wanted[name])


def _indented(body: str) -> str:
    told = read_body(body)
    return json.dumps(told, indent=2, ensure_ascii=False) if told else ""


def _proof(seq: int) -> tuple[Proof | None, str]:
    try:
        return proof_of(seq), ""
    except NoProof as exc:
        return None, str(exc)


def _whence(seq: int, told: dict[str, Any]) -> RequestOrigin:
    source = came_from(str(told.get("source") or ""), None)
    origin = Origin.objects.filter(auditentry__seq=seq).first()
    if origin is None:
        return RequestOrigin(source, "", "", None, None)
    if origin.erased_at is not None:
        return RequestOrigin(source, "", "", origin.erased_at, None)
    fits = salted(origin.ip, origin.agent, bytes(origin.salt)) == told.get("from")
    return RequestOrigin(source, origin.ip or "", origin.agent, None, fits)


# -- A person, a host


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a person or a host at a glance."""

    first: datetime
    last: datetime
    entries: Counted
    ended: tuple[tuple[str, int], ...]  # switches among those counted, by how they ended


def history(filters: Filters) -> History | None:
    """Of whom or what the filter names; None where the trail knows nothing of it."""
    newest, oldest = find(filters, 1).seqs, find(filters, 1, after=0).seqs
    if not newest or not oldest:
        return None
    times = dict(AuditEntry.objects.filter(pk__in=[*newest, *oldest]).values_list("seq", "at"))
    last = find(filters, MAX_COUNTED + 1)
    return History(
        first=times[oldest[0]],
        last=times[newest[0]],
        entries=_counted(last),
        ended=_ended(last.seqs[:MAX_COUNTED]),
    )


def _ended(seqs: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """How many of these ended a switch, by how it ended."""
    rows = AuditEntry.objects.filter(pk__in=seqs).exclude(outcome="").order_by("outcome")
    counts = rows.values_list("outcome").annotate(number=Count("pk"))
    return tuple((outcome_words(outcome), number) for outcome, number in counts)
