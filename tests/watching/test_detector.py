"""Judging is cheap while nothing happens, and says nothing where a reading cannot tell."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError

from switcher.domain.observed import Observation
from switcher.models import Drift, Host
from switcher.records import drifts
from switcher.watching.detector import DriftDetector
from tests import make
from tests.make import NOW

pytestmark = pytest.mark.django_db

QueryCount = Callable[[int], AbstractContextManager[Any]]
LLAMA = make.resident("llama3.1:8b")


@pytest.fixture
def host() -> Host:
    host = make.host()
    make.ended_switch(host, "llama3.1:8b", at=NOW - timedelta(hours=1))
    return host


@pytest.fixture
def detector(host: Host) -> DriftDetector:
    made = DriftDetector()
    made.refresh()
    return made


def at(seconds: float, *rows: Any, **values: Any) -> Observation:
    disk = (make.installed("llama3.1:8b"),)
    return make.seen(*rows, at=NOW + timedelta(seconds=seconds), on_disk=disk, **values)


def test_nothing_is_asked_of_the_database_while_nothing_changes(
    host: Host, detector: DriftDetector, django_assert_num_queries: QueryCount
) -> None:
    detector.detect(host.pk, at(0, LLAMA), False)
    with django_assert_num_queries(0):
        for second in range(1, 10):
            assert detector.detect(host.pk, at(second, LLAMA), False) is not None
    with django_assert_num_queries(1):
        detector.refresh()
    detector.detect(host.pk, at(10), False)
    assert Drift.objects.count() == 1
    detector.refresh()
    with django_assert_num_queries(0):
        report = detector.detect(host.pk, at(11), False)
    assert report is not None
    assert [d.kind.value for d in report.open] == ["evicted"]


def test_while_a_switch_runs_and_once_after_it_nothing_is_judged(
    host: Host, detector: DriftDetector
) -> None:
    detector.detect(host.pk, at(0, LLAMA), False)
    assert detector.detect(host.pk, at(1), True) is None
    assert detector.is_undecided(host.pk)
    assert detector.detect(host.pk, at(2), False) is None
    assert not Drift.objects.exists()
    assert detector.detect(host.pk, at(3), False) is not None
    assert Drift.objects.exists()


def test_what_could_not_be_written_is_judged_the_same_by_the_next_reading(
    host: Host, detector: DriftDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector.detect(host.pk, at(0, LLAMA), False)
    detector.detect(host.pk, at(0.5, error="Connection refused."), False)

    def locked(*_: object) -> None:
        raise OperationalError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(drifts, "record", locked)
        with pytest.raises(OperationalError):
            detector.detect(host.pk, at(1), False)
    detector.detect(host.pk, at(2), False)
    assert Drift.objects.get().kind == "restarted"


def test_what_a_reading_that_says_nothing_showed_first_is_named_by_the_next(
    host: Host, detector: DriftDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keep-alive is seen to be shortened by comparing with a reading before."""
    soon = make.resident("llama3.1:8b", expires_at=NOW + timedelta(minutes=1))
    detector.detect(host.pk, at(0, make.resident("llama3.1:8b")), False)
    with monkeypatch.context() as patched:
        patched.setattr(drifts, "record", lambda *_: None)  # what is desired has just changed
        assert detector.detect(host.pk, at(1, soon), False) is None
    assert detector.detect(host.pk, at(2, soon), False) is None
    detector.detect(host.pk, at(3, soon), False)
    assert Drift.objects.get().kind == "shortened"


def test_a_host_that_is_not_known_yet_is_not_judged(host: Host) -> None:
    assert DriftDetector().detect(host.pk, at(0), False) is None
