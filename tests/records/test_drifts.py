"""Drift as rows: each opens once and ends once, with its entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from switcher.domain.drift import DriftFinding, Kind
from switcher.domain.states import State
from switcher.models import AuditEntry, Drift, Host
from switcher.queries.drifts import open_drifts, recent_drifts
from switcher.records import config, drifts
from switcher.records.drifts import Detection
from tests import make
from tests.clocks import FakeClock

pytestmark = pytest.mark.django_db

ALL = frozenset(Kind)
GONE = DriftFinding(Kind.EVICTED, "mid-a", "sha-a", "mid-a was evicted.", {"now": {"at": "10:00"}})
GHOST = DriftFinding(Kind.GHOST, "mid-b", "sha-b", "mid-b now points to other content.", {})


def judgement(host: Host, found: Iterable[DriftFinding], **values: Any) -> Detection:
    facts: dict[str, Any] = {
        "host_id": host.pk,
        "active_digest": host.active_digest,
        "active_since": host.active_since,
        "read_at": timezone.now(),
        "kinds": ALL,
        "found": tuple(found),
        "ending": lambda kind, digest: f"{kind} of {digest} is over.",
    }
    return Detection(**facts | values)


def kinds() -> list[str]:
    rows = AuditEntry.objects.filter(kind__startswith="drift").order_by("seq")
    return [f"{r.kind} {r.facts['drift']}" for r in rows]


def test_what_is_new_opens_and_what_is_over_ends_each_with_an_entry() -> None:
    host = make.host()
    open_now = drifts.record(judgement(host, [GONE, GHOST]))
    assert open_now is not None
    assert [d.key for d in open_now] == [("evicted", "sha-a"), ("ghost", "sha-b")]
    drifts.record(judgement(host, [GHOST]))
    assert kinds() == ["drift.seen evicted", "drift.seen ghost", "drift.ended evicted"]
    row = Drift.objects.get(kind="evicted")
    assert row.ending == "evicted of sha-a is over."
    assert row.ended_at is not None
    entry = AuditEntry.objects.filter(kind="drift.seen").earliest("seq")
    facts = entry.facts
    assert (entry.actor, facts["text"], facts["evidence"]) == ("watcher", GONE.text, GONE.evidence)


def test_what_stays_is_written_once() -> None:
    host = make.host()
    for _ in range(3):
        drifts.record(judgement(host, [GONE]))
    assert kinds() == ["drift.seen evicted"]


def test_what_comes_back_is_a_row_of_its_own() -> None:
    host = make.host()
    for found in ([GONE], [], [GONE]):
        drifts.record(judgement(host, found))
    assert Drift.objects.count() == 2
    assert [d.is_open for d in recent_drifts(host.pk)] == [True, False]


def test_a_reading_that_cannot_tell_ends_nothing() -> None:
    host = make.host()
    drifts.record(judgement(host, [GONE]))
    silent = DriftFinding(Kind.UNREACHABLE, "", "", "north-1 does not answer.", {})
    judged = judgement(host, [silent], kinds=frozenset({Kind.UNREACHABLE}))
    drifts.record(judged)
    assert {d.kind for d in open_drifts(host.pk)} == {"evicted", "unreachable"}


def nothing_is_written(judged: Detection) -> None:
    assert drifts.record(judged) is None
    assert not Drift.objects.exists()
    assert kinds() == []


def test_nothing_is_judged_while_a_switch_is_open() -> None:
    host = make.host()
    make.open_switch(host)
    nothing_is_written(judgement(host, [GONE]))


def test_a_reading_from_before_a_switchs_end_says_nothing() -> None:
    host = make.host()
    make.ended_switch(host, end=State.ROLLED_BACK, at=make.NOW)
    nothing_is_written(judgement(host, [GONE], read_at=make.NOW))
    assert drifts.record(judgement(host, [GONE], read_at=make.NOW + timedelta(minutes=5)))


def test_a_switch_that_ended_before_the_clock_was_set_back_hides_no_drift() -> None:
    host = make.host()
    make.ended_switch(host, end=State.ROLLED_BACK, at=make.NOW)
    earlier = make.NOW - timedelta(hours=1)
    assert drifts.record(judgement(host, [GONE], read_at=earlier), FakeClock(earlier))


def test_a_judgement_by_what_was_desired_before_says_nothing() -> None:
    host = make.host()
    old = judgement(host, [GONE])
    make.ended_switch(host, at=make.NOW - timedelta(hours=1))
    nothing_is_written(replace(old, read_at=make.NOW))


def test_a_removed_host_drifts_no_more() -> None:
    host = make.host()
    config.remove_host(host.pk, make.ANNA)
    nothing_is_written(judgement(host, [GONE]))


def test_the_database_keeps_a_second_one_out() -> None:
    host = make.host()
    drifts.record(judgement(host, [GONE]))
    twin = Drift.objects.get()
    twin.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        twin.save(force_insert=True)


def test_a_flap_is_told_once_and_ends() -> None:
    host = make.host()
    assert drifts.record_flapping(host.pk, "north-1 keeps drifting.", {"repairs_an_hour": 3})
    assert not drifts.record_flapping(host.pk, "north-1 keeps drifting.", {})
    lasting = DriftFinding(Kind.FLAPPING, "", "", "", {})
    drifts.record(judgement(host, [GONE, lasting]))
    assert {d.kind for d in open_drifts(host.pk)} == {"evicted", "flapping"}
    drifts.end_flapping(host.pk, "Repairs may be tried again.")
    drifts.end_flapping(host.pk, "Repairs may be tried again.")
    drifts.record(judgement(host, [GONE, lasting]))
    assert kinds() == ["drift.flapping flapping", "drift.seen evicted", "drift.ended flapping"]


def test_a_repair_is_linked_to_what_it_mends_while_that_is_open() -> None:
    host = make.host()
    drifts.record(judgement(host, [GONE, GHOST]))
    switch = make.ended_switch(host, at=make.NOW - timedelta(hours=2))
    host.refresh_from_db()
    over = Drift.objects.get(kind="ghost")
    assert drifts.record(judgement(host, [GONE], read_at=make.NOW))
    drifts.link_repair([d.pk for d in Drift.objects.all()], switch.pk)
    assert Drift.objects.get(kind="evicted").repair_id == switch.pk
    over.refresh_from_db()
    assert over.repair_id is None


def test_drift_policies_are_saved_with_their_entry() -> None:
    host = make.host()
    config.put_host({"drift_policy": "repair", "repairs_an_hour": 5}, make.ANNA, host.pk)
    host.refresh_from_db()
    assert (host.drift_policy, host.repairs_an_hour) == ("repair", 5)
    body = AuditEntry.objects.filter(kind="host.changed").latest("seq").facts
    assert body["before"] == {"drift_policy": "report", "repairs_an_hour": 3}
    assert body["after"] == {"drift_policy": "repair", "repairs_an_hour": 5}
