"""Searching the trail: any filters together find exactly the entries that fit, each once."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from switcher.audit.filters import (
    GROUPS,
    Filters,
    group_of,
    read_filters,
    read_time,
    read_valid_filters,
)
from switcher.audit.ledger_reader import MAX_SEQ
from switcher.audit.reviews import review
from switcher.audit.search import distinct_values, matching
from switcher.audit.text_index import index_words, rebuild_words, words_of
from switcher.domain.errors import BadRequest
from switcher.models import AuditEntry, Review
from switcher.records import Actor
from tests import make
from tests.audit.conftest import find, tell, tell_at, tell_many

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

KINDS = ("switch.queued", "switch.loading", "switch.active", "host.changed", "host.activated",
         "profile.changed", "login.failed", "audit.checked", "odd.thing")  # fmt: skip
WORDS = ("nightly", "incident", "INC-4711", "Straße", "wrong", "host", "rare")
BEGAN = make.NOW - timedelta(days=1)


@pytest.fixture
def trail() -> list[AuditEntry]:
    """400 entries of all sorts; a few of them are out of order in time, as by a clock set back."""
    rng = random.Random(11)
    for n in range(400):
        at = BEGAN + timedelta(minutes=n - (30 if n % 97 == 0 else 0))
        host = "" if rng.random() < 0.1 else rng.choice(["north-1", "north-2", "south-1"])
        reason = " ".join(rng.sample(WORDS, 2)) if rng.random() < 0.4 else ""
        actor = Actor("carl" if n == 33 else rng.choice(["anna", "ben"]), "page")
        model = rng.choice(["", "mid-a", "mid-b"])
        tell_at(at, rng.choice(KINDS), actor, host=host, reason=reason, model=model)
    seqs = [e.seq for e in AuditEntry.objects.filter(actor="ben")[:60]]
    review(seqs, Actor("arno", "page"))
    return list(AuditEntry.objects.order_by("-seq"))


def fits(entry: AuditEntry, f: Filters, reviewed: set[int]) -> bool:
    """What a filter means, entry by entry."""
    kinds = GROUPS.get(f.kind)
    same_kind = entry.kind == f.kind if kinds is None else group_of(entry.kind) == f.kind
    return (
        (not f.host or entry.host == f.host)
        and (not f.model or entry.model == f.model)
        and (not f.actor or entry.actor == f.actor)
        and (not f.kind or same_kind)
        and (not f.outcome or entry.outcome == f.outcome)
        and (f.since is None or entry.at >= f.since)
        and (f.until is None or entry.at <= f.until)
        and set(words_of(f.text)) <= set(words_of(entry.reason))
        and (not f.unreviewed or (entry.kind != "audit.reviewed" and entry.seq not in reviewed))
    )


def some_filters(rng: random.Random) -> Filters:
    def maybe(*values: Any) -> Any:
        return rng.choice(values) if rng.random() < 0.4 else ""

    since = BEGAN + timedelta(minutes=rng.randint(0, 300)) if rng.random() < 0.3 else None
    return Filters(
        host=maybe("north-1", "south-1", "nowhere"),
        model=maybe("mid-a", "mid-b"),
        actor=maybe("anna", "ben", "carl", "nobody"),
        kind=maybe("switches", "configuration", "people", "drift", "switch.active", "odd.thing"),
        outcome=maybe("active", "failed"),
        since=since,
        until=(since or BEGAN) + timedelta(minutes=150) if rng.random() < 0.3 else None,
        text=maybe("nightly", "wrong host", "INC-4711", "straße", "RARE nightly", "never"),
        unreviewed=rng.random() < 0.3,
    )


def page_through(filters: Filters, newest_first: bool, size: int = 10) -> list[int]:
    """Page by page until there are no more."""
    seqs: list[int] = []
    while True:
        edge = {"before" if newest_first else "after": seqs[-1]} if seqs else {}
        rows = matching(filters, **edge).order_by("-seq" if newest_first else "seq")
        page = list(rows.values_list("seq", flat=True)[:size])
        if not page:
            return seqs
        seqs += page


@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_list_exactly_what_fits_and_each_entry_once(
    trail: list[AuditEntry], newest_first: bool
) -> None:
    reviewed = set(Review.objects.values_list("seq", flat=True))
    rng = random.Random(5)
    for _ in range(120):
        filters = some_filters(rng)
        expected = [e.seq for e in trail if fits(e, filters, reviewed)]
        expected = expected if newest_first else expected[::-1]
        assert page_through(filters, newest_first) == expected, filters


def count_of_queries(act: Callable[[], object]) -> list[str]:
    asked: list[str] = []

    def note(execute: Any, sql: str, *args: Any) -> Any:
        asked.append(sql)
        return execute(sql, *args)

    with connection.execute_wrapper(note):
        act()
    return asked


def test_no_question_counts_or_skips(trail: list[AuditEntry]) -> None:
    asked = count_of_queries(lambda: [find(some_filters(random.Random(n))) for n in range(20)])
    assert not [sql for sql in asked if "OFFSET 50" in sql or "COUNT(*) FROM switcher" in sql]


def test_words_are_found_whole_whatever_their_case_and_signs() -> None:
    seq = tell(reason="Re: INC-4711, the Straße_is (closed)!").seq
    for text in ("inc", "4711", "inc-4711", "STRASSE", "straße", "is", "closed re"):
        found = find(Filters(text=text), 5)
        assert found == ([] if text == "STRASSE" else [seq]), text
    assert find(Filters(text="close"), 5) == []
    assert find(Filters(text="' OR 1=1 --"), 5) == []
    assert find(Filters(text="!!!"), 5) == []


def test_the_index_of_words_follows_the_rows() -> None:
    entry = tell(reason="first words")
    AuditEntry.objects.filter(pk=entry.seq).update(reason="second words")
    assert find(Filters(text="first"), 5) == []
    assert find(Filters(text="second"), 5) == [entry.seq]
    AuditEntry.objects.filter(pk=entry.seq).delete()
    assert find(Filters(text="second"), 5) == []
    rebuild_words()
    index_words()
    other = tell(reason="second chance").seq
    assert find(Filters(text="second"), 5) == [other]


def test_distinct_values_are_in_their_order_without_the_empty_one() -> None:
    for host in ("south-1", "", "north-1", "south-1"):
        tell(host=host)
    assert distinct_values("host") == ("north-1", "south-1")
    assert distinct_values("host", 1) == ("north-1",)
    assert distinct_values("model") == ()


def test_what_is_appended_meanwhile_moves_nothing_between_pages() -> None:
    tell_many(30)

    def page(before: int = MAX_SEQ) -> list[int]:
        rows = matching(Filters(), before=before).order_by("-seq")
        return list(rows.values_list("seq", flat=True)[:10])

    first = page()
    tell_many(5, actor=Actor("late", "page"))
    second = page(first[-1])
    third = page(second[-1])
    assert [*first, *second, *third] == list(range(30, 0, -1))
    assert find(Filters(), after=first[0]) == list(range(31, 36))


@pytest.fixture
def back_in_time() -> list[int]:
    """Entries whose clock was set back by an hour in the middle."""
    before = [tell_at(make.NOW + timedelta(minutes=n)) for n in range(20)]
    after = [tell_at(make.NOW + timedelta(minutes=n - 60)) for n in range(70)]
    return before + after


def test_a_clock_that_was_set_back_hides_nothing(back_in_time: list[int]) -> None:
    since, until = make.NOW + timedelta(minutes=5), make.NOW + timedelta(minutes=8)
    found = find(Filters(since=since, until=until))
    wanted = AuditEntry.objects.filter(at__gte=since, at__lte=until)
    assert found == list(wanted.order_by("-seq").values_list("seq", flat=True))
    assert len(found) == 8


def test_times_are_read_as_people_write_them() -> None:
    assert read_time("2026-11-24").isoformat() == "2026-11-24T00:00:00+00:00"
    assert read_time("2026-11-24", end=True).isoformat() == "2026-11-24T23:59:59.999999+00:00"
    assert read_time("2026-11-24T14:05", end=True).isoformat() == "2026-11-24T14:05:59.999999+00:00"
    assert read_time("2026-11-24T14:05:07", end=True).second == 7
    assert read_time("2026-11-24T14:05+02:00", end=True).minute == 5
    assert read_time("2026-11-24T14:05+02:00").hour == 12
    for bad in ("yesterday", "2026-13-01", "0001-01-01T00:00+14:00", ""):
        with pytest.raises(BadRequest, match="2026-11-24"):
            read_time(bad)


@pytest.mark.parametrize(
    ("written", "last"),
    [
        ("20261124", "23:59:59"),
        ("2026-W48-2", "23:59:59"),
        ("20261124T14", "14:59:59"),
        ("2026-11-24T14", "14:59:59"),
        ("2026-11-24 14", "14:59:59"),
        ("20261124T1405", "14:05:59"),
        ("2026-W48-2T1405", "14:05:59"),
        ("20261124T1405+0200", "12:05:59"),
        ("2026-11-24T14+02:00", "12:59:59"),
        ("2026-11-24T14:05Z", "14:05:59"),
        ("20261124T140507", "14:05:07"),
        ("2026-11-24 14:05:07", "14:05:07"),
    ],
)
def test_the_end_of_a_range_is_the_end_of_what_was_named(written: str, last: str) -> None:
    assert read_time(written, end=True).isoformat() == f"2026-11-24T{last}.999999+00:00"


def test_a_range_may_end_with_time_itself_and_not_later() -> None:
    for text in ("9999-12-31", "9999-12-31T23", "9999-12-31T23:59", "9999-12-31T23:59:59"):
        assert read_time(text, end=True).isoformat() == "9999-12-31T23:59:59.999999+00:00"
    with pytest.raises(BadRequest, match="2026-11-24"):
        read_time("9999-12-31T23:59-01:00", end=True)


def test_what_cannot_be_read_is_named_by_its_field() -> None:
    with pytest.raises(BadRequest) as caught:
        read_filters({"outcome": "splendid"})
    assert caught.value.field == "outcome"
    filters, errors = read_valid_filters({"since": "soon", "outcome": "x", "host": "north-1"})
    assert filters == Filters(host="north-1")
    assert set(errors) == {"since", "outcome"}


def test_filters_are_told_as_an_address_has_them() -> None:
    filters = read_filters({"host": "north-1", "until": "2026-11-24", "unreviewed": "1"})
    told = filters.to_dict()
    assert told == {
        "host": "north-1",
        "until": "2026-11-24T23:59:59.999999Z",
        "unreviewed": "yes",
    }
    assert read_filters(told) == filters


def test_every_kind_that_is_written_belongs_to_a_group(trail: list[AuditEntry]) -> None:
    assert group_of("odd.thing") == ""
    assert all(group_of(kind) for kind in KINDS if kind != "odd.thing")


def test_an_entry_is_found_as_soon_as_it_is_appended() -> None:
    seq = tell(host="north-1", reason="fresh").seq
    assert find(Filters(host="north-1", text="fresh"), 1) == [seq]
