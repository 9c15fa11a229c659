"""Failed logins are counted, recorded and locked out; an unknown name is stored nowhere."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.core.serializers import serialize

from switcher.audit.ledger import Actor
from switcher.models import AuditEntry, FailedLogin, LedgerRow, Origin
from switcher.records import logins
from tests import make
from tests.clocks import FakeClock
from tests.records.conftest import at_once, bodies

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_databases]

HERE, THERE = "192.0.2.7", "198.51.100.9"
TYPED = "canary-typed-as-name-81fc"


@pytest.fixture(autouse=True)
def limits(settings: Any) -> None:
    settings.SWITCHER_LOGIN_FAILURES = 3
    settings.SWITCHER_LOGIN_LOCKOUT_MINUTES = 15


def fail(
    name: str = "olga", ip: str | None = HERE, clock: Any = None, times: int = 1
) -> logins.Lockout | None:
    lock = None
    for _ in range(times):
        lock = logins.failed(name, Actor("", "page", ip=ip, agent="Firefox"), clock or FakeClock())
    return lock


def kinds() -> list[str]:
    return list(AuditEntry.objects.order_by("seq").values_list("kind", flat=True))


def test_the_actor_of_a_failure_is_the_account_that_was_tried() -> None:
    make.user("olga")
    assert fail("olga") is None
    entry = AuditEntry.objects.get()
    assert (entry.kind, entry.actor, entry.facts) == (
        "login.failed",
        "olga",
        {"why": "wrong password"},
    )
    assert entry.origin is not None
    assert (entry.origin.ip, entry.origin.agent) == (HERE, "Firefox")


def test_a_failure_says_if_the_account_is_switched_off() -> None:
    make.user("otto", is_active=False)
    fail("otto")
    assert AuditEntry.objects.get().facts == {"why": "switched off"}


def test_a_name_without_an_account_is_stored_nowhere() -> None:
    fail(TYPED, times=4)
    everything = [FailedLogin, AuditEntry, LedgerRow, Origin]
    rows = "".join(serialize("json", model.objects.all()) for model in everything)
    assert LedgerRow.objects.count() == 4
    assert TYPED not in rows
    assert {entry.actor for entry in AuditEntry.objects.all()} == {"unknown account"}
    # Nor does what is counted tell it to somebody who tries words: the key is not in the database.
    assert FailedLogin.objects.get().failures == 3


def test_failures_lock_the_name_at_that_address_for_a_time() -> None:
    clock = FakeClock()
    make.user("olga")
    assert fail(clock=clock, times=2) is None
    lock = fail(clock=clock)
    assert lock == logins.Lockout(clock.now() + timedelta(minutes=15), "name and address")
    assert kinds() == ["login.failed"] * 3 + ["login.locked-out"]
    (told,) = bodies(kind="login.locked-out")
    assert told["actor"] == "olga"
    assert told["locked"] == "name and address"
    assert logins.lockout_of("olga", HERE, clock) == lock
    assert logins.lockout_of("olga", THERE, clock) is None
    assert logins.lockout_of("otto", HERE, clock) is None


def test_attempts_during_a_lockout_are_neither_counted_nor_recorded() -> None:
    clock = FakeClock()
    lock = fail(clock=clock, times=3)
    clock.sleep(600)
    assert fail(clock=clock, times=5) == lock
    assert len(kinds()) == 4
    clock.sleep(300)
    assert logins.lockout_of("olga", HERE, clock) is None
    assert fail(clock=clock) is None, "it counts from one again"


def test_many_failures_at_once_do_not_exceed_the_limit() -> None:
    at_once(*(partial(fail) for _ in range(8)))
    assert sorted(kinds()) == ["login.failed"] * 3 + ["login.locked-out"]
    assert FailedLogin.objects.get().failures == 3


def test_one_address_is_locked_for_all_names_after_five_times_as_many() -> None:
    clock = FakeClock()
    for n in range(14):
        assert fail(f"name-{n}", clock=clock) is None
        clock.sleep(1)
    lock = fail("name-14", clock=clock)
    assert lock is not None
    assert lock.rule == "address"
    assert logins.lockout_of("olga", HERE, clock) == lock
    assert logins.lockout_of("olga", THERE, clock) is None
    # The first one ceases to count 15 minutes after it, and then one may be tried again.
    assert lock.until == clock.now() - timedelta(seconds=14) + timedelta(minutes=15)


def test_one_name_is_locked_from_everywhere_after_ten_times_as_many() -> None:
    clock = FakeClock()
    for n in range(14):
        assert fail("olga", f"198.51.100.{n}", clock, times=2) is None
    assert fail("olga", "198.51.100.200", clock) is None
    lock = fail("olga", "198.51.100.201", clock)
    assert lock is not None
    assert lock.rule == "name"
    assert logins.lockout_of("olga", "203.0.113.5", clock) == lock


def test_addresses_of_one_ipv6_network_count_together() -> None:
    clock = FakeClock()
    for n in range(2):
        fail("olga", f"2001:db8::{n + 1:x}", clock)
    lock = fail("olga", "2001:db8::ffff:1", clock)
    assert lock is not None
    assert lock.rule == "name and address"
    assert logins.lockout_of("olga", "2001:db8:0:1::1", clock) is None


def test_without_addresses_users_do_not_lock_each_other_out() -> None:
    clock = FakeClock()
    for n in range(20):
        assert fail(f"name-{n}", None, clock) is None
    assert fail("olga", None, clock, times=3) is not None
    assert logins.lockout_of("otto", None, clock) is None


def test_a_login_forgets_only_the_users_own_failures() -> None:
    clock = FakeClock()
    make.user("olga")
    fail("olga", clock=clock, times=2)
    fail("otto", clock=clock, times=2)
    logins.succeeded(Actor("olga", "page", ip=HERE), clock)
    assert fail("olga", clock=clock, times=2) is None
    assert fail("otto", clock=clock) is not None
    assert "login.succeeded" in kinds()


def test_unlocking_is_recorded() -> None:
    clock = FakeClock()
    make.user("olga")
    fail("olga", HERE, clock, times=3)
    fail(TYPED, HERE, clock, times=3)
    assert logins.unlock("olga", None, make.ANNA) == 1
    assert logins.lockout_of("olga", HERE, clock) is None
    assert logins.lockout_of(TYPED, HERE, clock) is not None
    assert logins.unlock(TYPED, HERE, make.ANNA) == 1
    told, secret = bodies(kind="login.unlocked")
    assert (told["actor"], told["account"]) == ("anna", "olga")
    assert secret["account"] is None
    assert logins.unlock(None, None, make.ANNA) == 0


def test_old_counts_are_removed() -> None:
    clock = FakeClock()
    fail("name-1", clock=clock)
    clock.sleep(15 * 60)
    fail("name-2", clock=clock)
    assert FailedLogin.objects.count() == 1
