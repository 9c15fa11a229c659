from __future__ import annotations

from datetime import timedelta

import pytest

from switcher.domain.states import State
from switcher.queries.switches import (
    PAGE_SIZE,
    Filters,
    neighbours,
    open_switch_on,
    switch_page,
)
from tests import make
from tests.make import NOW

pytestmark = pytest.mark.django_db


def test_open_switch_is_found_by_its_host() -> None:
    host = make.host()
    assert open_switch_on("north-1") is None
    row = make.open_switch(host)
    found = open_switch_on("north-1")
    assert found is not None
    assert found.id == row.pk


def test_neighbours_are_on_the_same_host() -> None:
    north, south = make.host(), make.host("south-1")
    first, _, third = make.ended_switch(north), make.ended_switch(south), make.ended_switch(north)
    assert neighbours(first.pk, north.pk) == (None, third.pk)
    assert neighbours(third.pk, north.pk) == (first.pk, None)


def test_list_is_filtered() -> None:
    north, south = make.host(), make.host("south-1")
    make.ended_switch(north, "phi4:14b", at=NOW - timedelta(days=2), reason="nightly")
    make.ended_switch(north, "gemma2:27b", State.ROLLED_BACK, at=NOW - timedelta(hours=2))
    make.ended_switch(south, "gemma2:9b")
    make.open_switch(south, "phi4:14b")

    def found(**values: object) -> list[str]:
        return [r.model for r in switch_page(Filters(**values)).rows]  # type: ignore[arg-type]

    assert found() == ["phi4:14b", "gemma2:9b", "gemma2:27b", "phi4:14b"]
    assert found(host="north-1") == ["gemma2:27b", "phi4:14b"]
    assert found(outcome="failed") == ["gemma2:27b"]
    assert found(outcome="open") == ["phi4:14b"]
    assert found(model="gemma2:9b") == ["phi4:14b", "gemma2:9b"]  # to it, or away from it
    assert found(who="nobody") == []
    assert found(text="NIGHTLY") == ["phi4:14b"]
    assert found(since=NOW - timedelta(minutes=90)) == ["phi4:14b", "gemma2:9b"]
    assert found(until=NOW - timedelta(days=1)) == ["phi4:14b"]


def test_pages_go_by_key_so_that_a_new_switch_moves_nothing() -> None:
    host = make.host()
    for n in range(PAGE_SIZE + 2):
        make.ended_switch(host, f"model-{n}", at=NOW - timedelta(minutes=5 * (PAGE_SIZE - n)))
    first = switch_page(Filters())
    assert (len(first.rows), first.newer, first.total) == (PAGE_SIZE, None, PAGE_SIZE + 2)
    make.ended_switch(host, "newer")
    second = switch_page(Filters(), before=first.older)
    assert [r.model for r in second.rows] == ["model-1", "model-0"]
    assert second.older is None
    back = switch_page(Filters(), after=second.newer)
    assert [r.id for r in back.rows] == [r.id for r in first.rows]
    assert back.newer is not None
