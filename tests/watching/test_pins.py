"""Preloaded profiles are desired as well, and keep-alives are kept from running out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from switcher.domain.drift import Kind
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Resident
from switcher.domain.specs import Spec
from switcher.models import Drift
from switcher.watching import keepalive
from switcher.watching.loop import Watcher
from tests.until import until
from tests.watching.conftest import Watched

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def kept(watched: Watched, watcher: Watcher, worker: object) -> Watched:
    watched.set(drift_policy="repair", repairs_an_hour=3)
    watched.switch("mid-a")
    watched.settled()
    return watched


def test_a_pin_is_loaded_by_the_watcher(kept: Watched) -> None:
    kept.pin(kept.profile("embed"))
    until(lambda: kept.ollama.resident() == {"mid-a", "embed"})
    (row,) = kept.repairs()
    until(lambda: kept.repairs()[0].ended_at is not None)
    row.refresh_from_db()
    assert row.warnings == []
    assert [i["name"] for i in row.plan["reload"]] == ["embed:latest"]
    assert row.strategy == "overlap", "mid-a stays, nobody waits"
    assert Drift.objects.get(kind=Kind.MISSING.value).repair_id == row.pk


def test_a_pin_that_is_evicted_comes_back(kept: Watched) -> None:
    kept.pin(kept.profile("embed"))
    until(lambda: kept.ollama.resident() == {"mid-a", "embed"})
    kept.settled()
    kept.ollama.act("evict", tag="embed")
    kept.named(Kind.EVICTED, "embed")
    until(lambda: kept.ollama.resident() == {"mid-a", "embed"})
    assert len(kept.repairs()) == 2


def test_a_switch_to_another_model_loads_what_is_pinned(watched: Watched) -> None:
    watched.pin(watched.profile("embed"))
    row = watched.switch("mid-a")
    assert watched.ollama.resident() == {"mid-a", "embed"}
    assert row.warnings == []


def test_a_pin_that_cannot_be_loaded_is_a_warning(watched: Watched) -> None:
    watched.pin(watched.profile("embed"))
    watched.ollama.fault(kind="fail_load", tag="embed")
    row = watched.switch("mid-a")
    assert row.warnings[0].startswith("embed is pinned, and could not be loaded:")


def test_a_keep_alive_that_was_shortened_is_asserted_again(kept: Watched) -> None:
    kept.ollama.load("mid-a", keep_alive="1m")
    kept.named(Kind.SHORTENED, "mid-a")
    until(lambda: _left_s(kept, "mid-a") > 25 * 60)
    until(lambda: not Drift.objects.filter(ended_at=None).exists())
    assert kept.repairs() == [], "the clock alone is touched"


def test_a_keep_alive_that_a_client_made_endless_is_set_again(kept: Watched) -> None:
    kept.ollama.load("mid-a", keep_alive=-1)
    kept.named(Kind.LENGTHENED, "mid-a")
    until(lambda: _left_s(kept, "mid-a") < 31 * 60)
    until(lambda: not Drift.objects.filter(ended_at=None).exists())
    assert kept.repairs() == [], "the clock alone is touched"


def test_a_keep_alive_is_asserted_before_it_runs_out(watched: Watched, watcher: Watcher) -> None:
    watched.set(drift_policy="repair")
    watched.switch("mid-a", keep_alive="8s")
    first = _expires_at(watched, "mid-a")
    until(lambda: _expires_at(watched, "mid-a") > first + timedelta(seconds=8))
    assert not Drift.objects.filter(kind=Kind.EXPIRED.value).exists()


def test_an_embedding_model_is_kept_by_embedding(watched: Watched, watcher: Watcher) -> None:
    watched.set(drift_policy="repair")
    watched.pin(watched.profile("embed", keep_alive="8s"))
    watched.switch("mid-a")
    first = _expires_at(watched, "embed")
    until(lambda: _expires_at(watched, "embed") > first + timedelta(seconds=8))


def _expires_at(watched: Watched, tag: str) -> datetime:
    return datetime.fromisoformat(watched.ollama.rows()[tag]["expires_at"])


def _left_s(watched: Watched, tag: str) -> float:
    return (_expires_at(watched, tag) - datetime.now(UTC)).total_seconds()


NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("keep_alive", "left_s", "due"),
    [
        ("30m", 16 * 60, False),
        ("30m", 14 * 60, True),
        ("50s", 40, False),
        ("50s", 29, True),
        ("10s", 9.5, False),  # not with each reading
        ("10s", 8, True),
        ("forever", 3600, True),
    ],
)
def test_when_a_keep_alive_is_about_to_run_out(keep_alive: str, left_s: float, due: bool) -> None:
    here = Resident(ModelName.parse("a"), "sha", 1, 1, 4096, NOW + timedelta(seconds=left_s))
    assert keepalive.expires_soon(Spec("", "a", keep_alive), here, NOW) is due


def test_what_stays_for_ever_never_runs_out() -> None:
    here = Resident(ModelName.parse("a"), "sha", 1, 1, 4096, datetime(2319, 1, 1, tzinfo=UTC))
    assert not keepalive.expires_soon(Spec("", "a", "forever"), here, NOW)
