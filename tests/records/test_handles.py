"""Which names are ours, as rows and entries tell."""

from __future__ import annotations

import pytest

from switcher.domain.errors import FenceLost
from switcher.domain.model_names import ModelName
from switcher.models import AuditEntry, ModelCopy
from switcher.records import leases, model_copies
from switcher.records.model_copies import LeaseHolder
from tests import make
from tests.clocks import FakeClock
from tests.make import ANNA

A, B = ModelName.parse("mid-a"), ModelName.parse("mid-b")
COPY = ModelName.parse("holds/mid-a:d1")

pytestmark = pytest.mark.django_db


def holder() -> LeaseHolder:
    host = make.host()
    clock = FakeClock()
    fence = leases.take(host.pk, "test", clock)
    assert fence is not None
    return LeaseHolder(host.pk, fence, ANNA, clock=clock)


def told() -> list[tuple[str, str, int]]:
    rows = AuditEntry.objects.filter(kind__startswith="handle.").order_by("seq")
    bodies = [(row.kind, row.facts) for row in rows]
    return [(kind, body["name"], body["fence"]) for kind, body in bodies]


def test_a_claim_and_a_release_are_a_row_and_two_entries() -> None:
    who = holder()
    assert model_copies.claim(who, "d1", A, COPY)
    assert ModelCopy.objects.get().tag == "mid-a:latest"
    assert model_copies.claim(who, "d1", A, COPY), "again changes nothing"
    model_copies.release(who, "d1")
    model_copies.release(who, "d1")
    assert not ModelCopy.objects.exists()
    name = "holds/mid-a:d1"
    assert told() == [("handle.claimed", name, who.fence), ("handle.released", name, who.fence)]


def test_a_name_stands_for_one_digest() -> None:
    who = holder()
    assert model_copies.claim(who, "d1", A, COPY)
    assert not model_copies.claim(who, "d2", A, COPY)
    assert ModelCopy.objects.get().digest == "d1"


def test_with_an_old_fence_nothing_is_written() -> None:
    who = holder()
    model_copies.claim(who, "d1", A, COPY)
    leases.give_back(who.host_id, who.fence)
    leases.take(who.host_id, "another", who.clock)
    with pytest.raises(FenceLost):
        model_copies.claim(who, "d2", B, ModelName.parse("holds/mid-b:d2"))
    with pytest.raises(FenceLost):
        model_copies.release(who, "d1")
    with pytest.raises(FenceLost):
        model_copies.record_ghost("ghost.freed", who, "d1")
    assert [h.digest for h in ModelCopy.objects.all()] == ["d1"]
    assert len(told()) == 1
