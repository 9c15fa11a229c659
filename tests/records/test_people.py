"""Accounts and roles: each change has its entry with before and after, whatever the entry point."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import transaction

from switcher.models import AuditEntry, LedgerRow
from switcher.records import people
from tests import make
from tests.records.conftest import bodies

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_databases]

SECRET = "canary-Password-b2f7"


@pytest.fixture(autouse=True)
def anna_acts() -> Any:
    with people.acting(lambda: make.ANNA):
        yield


@pytest.fixture
def olga(db: None) -> Any:
    return make.user("olga", role="", is_staff=True)


def recorded() -> list[tuple[str, dict[str, Any]]]:
    """Kind and facts of each entry, in their order."""
    return [(entry.kind, entry.facts) for entry in AuditEntry.objects.order_by("seq")]


def test_a_new_account_is_recorded_with_its_rights() -> None:
    User.objects.create_user("olga", password=SECRET, is_staff=True)
    after = {"username": "olga", "is_active": True, "is_staff": True, "is_superuser": False}
    assert recorded() == [("user.added", {"user": "olga", "before": {}, "after": after})]
    entry = AuditEntry.objects.get()
    assert entry.actor == "anna"
    assert SECRET not in entry.body
    assert User.objects.get().password not in entry.body


def test_a_change_is_recorded_with_before_and_after(olga: Any) -> None:
    olga.is_superuser, olga.is_active = True, False
    olga.email = "olga@example.org"
    olga.save()
    before = {"is_active": True, "is_superuser": False}
    after = {"is_active": False, "is_superuser": True}
    assert recorded() == [("user.changed", {"user": "olga", "before": before, "after": after})]


def test_a_renamed_account_is_recorded_under_its_new_name(olga: Any) -> None:
    olga.username = "helga"
    olga.save()
    ((_, facts),) = recorded()
    assert facts == {
        "user": "helga",
        "before": {"username": "olga"},
        "after": {"username": "helga"},
    }


def test_a_change_of_other_fields_is_not_recorded(olga: Any) -> None:
    olga.email = "olga@example.org"
    olga.save()
    olga.save(update_fields=["last_login"])
    assert recorded() == []


def test_a_new_password_is_recorded_without_the_password(olga: Any) -> None:
    olga.set_password(SECRET)
    olga.save()
    assert recorded() == [("user.password-changed", {"user": "olga", "usable": True})]
    body = LedgerRow.objects.get().body
    assert SECRET not in body
    assert olga.password not in body


def test_removing_a_password_is_recorded(olga: Any) -> None:
    olga.set_unusable_password()
    olga.save(update_fields=["password"])
    olga.set_password(SECRET)
    olga.save()
    olga.set_unusable_password()
    olga.save()
    assert [facts["usable"] for _, facts in recorded()] == [True, False]


def test_rehashing_the_same_password_at_a_login_is_not_recorded(settings: Any) -> None:
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.MD5PasswordHasher",
        "django.contrib.auth.hashers.PBKDF2PasswordHasher",
    ]
    olga = make.user("olga", password=SECRET)
    settings.PASSWORD_HASHERS = settings.PASSWORD_HASHERS[::-1]
    old = olga.password
    assert olga.check_password(SECRET)
    olga.refresh_from_db()
    assert olga.password != old
    assert recorded() == []


def test_groups_are_recorded_from_either_side_of_the_relation(olga: Any) -> None:
    operators = Group.objects.get(name="operators")
    olga.groups.add(operators)
    operators.user_set.remove(olga)
    operators.user_set.add(olga)
    operators.user_set.clear()
    olga.groups.set([operators])
    none, some = {"groups": []}, {"groups": ["operators"]}
    came, left = (none, some), (some, none)
    assert [(f["user"], (f["before"], f["after"])) for _, f in recorded()] == [
        ("olga", way) for way in (came, left, came, left, came)
    ]
    assert {kind for kind, _ in recorded()} == {"user.changed"}


def test_groups_that_stay_are_not_recorded(olga: Any) -> None:
    operators = Group.objects.get(name="operators")
    olga.groups.remove(operators)
    assert recorded() == []


def test_permissions_of_users_and_groups_are_recorded(olga: Any) -> None:
    switch = Permission.objects.get(codename="switch_model")
    group = Group.objects.create(name="night shift")
    group.permissions.add(switch)
    olga.user_permissions.add(switch)
    facts = [facts for _, facts in recorded()]
    assert facts[0] == {"group": "night shift", "before": {}, "after": {"name": "night shift"}}
    change = {"before": {"permissions": []}, "after": {"permissions": ["switch_model"]}}
    assert facts[1:] == [{"group": "night shift", **change}, {"user": "olga", **change}]


def test_a_deleted_account_or_group_is_recorded_with_what_it_had(olga: Any) -> None:
    operators = Group.objects.get(name="operators")
    olga.groups.add(operators)
    Group.objects.filter(name="operators").delete()
    User.objects.all().delete()
    (_, group), (kind, person) = recorded()[1:]
    assert group == {"group": "operators", "before": {"members": ["olga"], "permissions": []}}
    assert kind == "user.deleted"
    assert person["before"]["is_staff"] is True


@pytest.mark.parametrize("act", ["make", "change", "group", "delete"])
def test_no_change_without_its_entry(olga: Any, act: str, monkeypatch: Any) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the ledger cannot be written")

    monkeypatch.setattr(people, "append", broken)
    acts = {
        "make": lambda: User.objects.create_user("new"),
        "change": lambda: (setattr(olga, "is_superuser", True), olga.save()),
        "group": lambda: olga.groups.add(Group.objects.get(name="operators")),
        "delete": lambda: olga.delete(),
    }
    with pytest.raises(RuntimeError):
        acts[act]()
    (left,) = User.objects.all()
    assert (left.username, left.is_superuser, left.groups.count()) == ("olga", False, 0)


def test_no_entry_without_its_change(olga: Any) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        olga.is_superuser = True
        olga.save()
        raise RuntimeError
    assert recorded() == []


def test_commands_record_who_ran_them(monkeypatch: Any) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", SECRET)
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"{SECRET}-2")
    people._acting.set(None)
    call_command("createsuperuser", "--noinput", username="root-admin", email="", verbosity=0)
    call_command("changepassword", "root-admin", verbosity=0)
    added, changed = AuditEntry.objects.order_by("seq")
    assert (added.kind, changed.kind) == ("user.added", "user.password-changed")
    me = people.at_this_terminal()
    assert {added.actor, changed.actor} == {me.name}
    assert [body["source"] for body in bodies()] == ["command", "command"]
    assert not any(SECRET in row.body for row in LedgerRow.objects.all())
