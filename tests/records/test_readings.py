"""Each host's version of Ollama is an entry when it is first seen, and when it changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from switcher.domain.observed import Observation
from switcher.models import AuditEntry, Host, Reading
from switcher.records import config, readings
from tests import make
from tests.records.conftest import ANNA, at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_databases]

SEEN = make.seen(make.resident("mid-a"), version="0.12.6")
SILENT = Observation(at=make.NOW, error="It does not answer.", resident=(), installed=())


def told() -> list[dict[str, Any]]:
    return [e.facts for e in AuditEntry.objects.filter(kind="host.version").order_by("seq")]


def test_a_version_is_told_when_it_is_seen_first_and_when_it_changes(host: Host) -> None:
    for seen in (SEEN, SEEN, SILENT, SEEN, replace(SEEN, version="0.13.0"), SILENT):
        readings.store(host.pk, seen, 0)
    assert told() == [
        {"before": "", "after": "0.12.6"},
        {"before": "0.12.6", "after": "0.13.0"},
    ]
    entry = AuditEntry.objects.filter(kind="host.version")[0]
    assert (entry.actor, entry.host) == ("watcher", "north-1")
    assert Reading.objects.get().version == "0.13.0"


def test_a_limit_that_was_learned_is_forgotten_with_the_version(host: Host) -> None:
    readings.store(host.pk, SEEN, 0)
    Host.objects.update(learned_max_loaded=1)
    readings.store(host.pk, SEEN, 0)
    assert Host.objects.get().learned_max_loaded == 1
    readings.store(host.pk, replace(SEEN, version="0.13.0"), 0)
    assert Host.objects.get().learned_max_loaded is None


def test_a_host_that_never_answered_has_none_yet(host: Host) -> None:
    readings.store(host.pk, SILENT, 1)
    assert told() == []
    readings.store(host.pk, SEEN, 0)
    assert told() == [{"before": "", "after": "0.12.6"}]


def test_another_address_is_another_server(host: Host) -> None:
    readings.store(host.pk, SEEN, 0)
    config.put_host({"base_url": "http://127.0.0.1:10"}, ANNA, host.pk)
    readings.store(host.pk, SEEN, 0)
    assert [facts["before"] for facts in told()] == ["", ""]


def test_of_many_readings_at_once_one_tells(host: Host) -> None:
    assert at_once(*(partial(readings.store, host.pk, SEEN, 0) for _ in range(6))) == [None] * 6
    assert len(told()) == 1


def test_a_host_that_is_gone_meanwhile_is_nothing(db: None) -> None:
    readings.store(4711, SEEN, 0)
    assert not Reading.objects.exists()
    assert told() == []
