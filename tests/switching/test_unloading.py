"""The active model unloaded on purpose, without a replacement."""

from __future__ import annotations

import pytest

from switcher.domain.drift import ReadingHistory
from switcher.domain.drift_rules import find_drift
from switcher.domain.errors import BadRequest, Conflict
from switcher.models import AuditEntry, Host, ModelCopy
from switcher.ollama.errors import Unreachable
from switcher.queries.desired import repairs, watched_host
from switcher.records import leases
from switcher.records.clients import set_published
from switcher.switching import service, unloading
from switcher.switching.service import SwitchRequest
from switcher.switching.unloading import Unloaded
from switcher.switching.worker import run_once
from tests import make
from tests.clocks import FakeClock
from tests.switching.conftest import ANNA
from tests.switching.fakehost import FakeHost

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _active(host: Host, fake: FakeHost) -> None:
    """`mid-a` is active."""
    row, _ = service.request_switch(SwitchRequest("mid-a"), ANNA)
    assert run_once(row.pk, connect=lambda *_: fake)
    fake.journal.clear()


def unload(host: Host, fake: FakeHost, reason: str = "") -> Unloaded:
    return unloading.unload_active(host, ANNA, reason, connect=lambda *_: fake)


def kinds() -> list[str]:
    return list(AuditEntry.objects.order_by("seq").values_list("kind", flat=True))[-2:]


def test_the_plan_says_what_leaves_and_changes_nothing(host: Host, fake: FakeHost) -> None:
    fake.hold("embed")
    plan = unloading.plan_unload(Host.objects.get(), lambda *_: fake)
    assert (plan.model, plan.bytes, plan.keep) == ("mid-a:latest", 8_000_000_000, ("embed",))
    assert plan.text.startswith(
        "mid-a:latest leaves north-1, and 8.0 GB are free again. embed stay"
    )
    assert set(fake.journal) == {"ps"}
    host.refresh_from_db()
    assert host.active_tag == "mid-a"


def test_it_leaves_and_the_record_says_why(host: Host, fake: FakeHost) -> None:
    done = unload(host, fake, "maintenance")
    assert done.is_gone
    assert fake.names == set()
    host.refresh_from_db()
    assert (host.active_tag, host.active_digest, host.active_spec) == ("", "", None)
    assert kinds() == ["host.activated", "host.unloaded"]


def test_no_drift_is_seen_and_nothing_repairs_it_back(host: Host, fake: FakeHost) -> None:
    Host.objects.update(drift_policy="repair")
    unload(host, fake)
    watched = watched_host(host.pk)
    assert watched is not None
    seen = make.seen(on_disk=tuple(fake.models.values()))
    assert find_drift(watched.desired, ReadingHistory(), seen) == ()
    assert repairs(host.pk, make.NOW) is None


def test_without_an_active_model_there_is_nothing_to_unload(host: Host, fake: FakeHost) -> None:
    unload(host, fake)
    with pytest.raises(Conflict, match="No model is active on north-1"):
        unload(host, fake)


def test_a_busy_model_is_no_longer_active_and_leaves_when_it_is_idle(
    host: Host, fake: FakeHost
) -> None:
    """Fact 2."""
    fake.sticky.add("mid-a:latest")
    clock = FakeClock(make.NOW)
    done = unloading.unload_active(host, ANNA, clock=clock, connect=lambda *_: fake)
    assert not done.is_gone
    assert "leaves when its requests have ended" in done.text
    host.refresh_from_db()
    assert not host.active_tag


def test_a_host_that_does_not_answer_keeps_its_active_model(host: Host, fake: FakeHost) -> None:
    fake.fail["ps"] = [Unreachable("Connection refused.")]
    with pytest.raises(Unreachable):
        unload(host, fake)
    host.refresh_from_db()
    assert host.active_tag == "mid-a"


def test_while_something_else_is_at_work_nothing_is_unloaded(host: Host, fake: FakeHost) -> None:
    assert leases.take(host.pk, "somebody else") is not None
    with pytest.raises(Conflict):
        unload(host, fake)
    assert fake.names == {"mid-a"}


def test_the_published_name_is_removed_with_it(host: Host, fake: FakeHost) -> None:
    set_published(host.pk, "live", ANNA)
    row, _ = service.request_switch(SwitchRequest("mid-b"), ANNA)
    assert run_once(row.pk, connect=lambda *_: fake)
    assert "live:latest" in fake.models
    assert unload(host, fake).plan.published == "live"
    assert "live:latest" not in fake.models


def test_a_switch_makes_a_model_active_again(host: Host, fake: FakeHost) -> None:
    unload(host, fake)
    row, _ = service.request_switch(SwitchRequest("mid-a"), ANNA)
    run_once(row.pk, connect=lambda *_: fake)
    row.refresh_from_db()
    assert (row.state, fake.names) == ("active", {"mid-a"})
    assert ModelCopy.objects.filter(host=host).count() == 1


def test_a_reason_that_is_too_long_is_refused(host: Host) -> None:
    with pytest.raises(BadRequest) as caught:
        service.unload_active("", ANNA, "x" * 501)
    assert caught.value.field == "reason"
