"""Signing in: what is recorded, and who is locked out for a while."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client

from switcher.models import AuditEntry, LedgerRow
from tests import make
from tests.panel.test_board import text_of
from tests.until import PATIENCE_S

pytestmark = pytest.mark.django_db

RIGHT, WRONG = "a-long-password", "canary-wrong-password-5e20"
TYPED = "canary-typed-as-name-0b44"


@pytest.fixture(autouse=True)
def limits(settings: Any) -> None:
    settings.SWITCHER_LOGIN_FAILURES = 3
    settings.SWITCHER_LOGIN_LOCKOUT_MINUTES = 15


@pytest.fixture
def olga(db: None) -> Any:
    return make.user("olga", password=RIGHT)


def sign_in(
    client: Client, name: str = "olga", password: str = RIGHT, path: str = "/login/", **values: Any
) -> Any:
    return client.post(path, {"username": name, "password": password}, **values)


def entries() -> list[tuple[str, str, str]]:
    """Return kind, actor and source of each entry."""
    rows = AuditEntry.objects.order_by("seq")
    return [(e.kind, e.actor, e.body.split('"source":"')[1].split('"')[0]) for e in rows]


@pytest.mark.parametrize(("path", "source"), [("/login/", "page"), ("/admin/login/", "admin")])
def test_logins_and_logouts_are_recorded(client: Client, olga: Any, path: str, source: str) -> None:
    assert sign_in(client, path=path, headers={"User-Agent": "Firefox"}).status_code == 302
    client.post("/logout/")
    assert entries() == [("login.succeeded", "olga", source), ("login.ended", "olga", "page")]
    entry = AuditEntry.objects.order_by("seq")[0]
    assert entry.origin is not None
    assert (entry.origin.ip, entry.origin.agent) == ("127.0.0.1", "Firefox")


@pytest.mark.django_db(transaction=True)
def test_requests_in_an_open_session_are_not_recorded(client: Client, olga: Any) -> None:
    sign_in(client)
    for path in ("/", "/audit/", "/ollama/switches"):
        assert client.get(path).status_code == 200
    assert [kind for kind, *_ in entries()] == ["login.succeeded"]


def test_a_logout_without_a_session_is_not_recorded(client: Client) -> None:
    assert client.post("/logout/").status_code == 302
    assert entries() == []


@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_a_lockout_says_what_happened_and_when_it_ends(
    client: Client, olga: Any, path: str
) -> None:
    for _ in range(2):
        response = sign_in(client, password=WRONG, path=path)
        assert response.status_code == 200
    before = datetime.now(UTC)
    response = sign_in(client, password=WRONG, path=path)
    after = datetime.now(UTC)
    assert response.status_code == 429
    assert 890 <= int(response["Retry-After"]) <= 900
    assert response["Cache-Control"] == "no-store"
    assert "script-src 'self'" in response["Content-Security-Policy"]
    text = text_of(response)
    assert "under this name from your address have failed" in text
    assert "in 15 minutes" in text
    until = AuditEntry.objects.get(kind="login.locked-out").facts["until"]
    assert f"{until[11:19]} UTC" in text
    lasts = timedelta(minutes=15)
    assert before + lasts <= datetime.fromisoformat(until) <= after + lasts
    assert sign_in(client, path=path).status_code == 429, "even with the right one"
    assert [kind for kind, *_ in entries()] == ["login.failed"] * 3 + ["login.locked-out"]


def test_a_name_without_an_account_gets_the_same_answers(client: Client, olga: Any) -> None:
    pages = {}
    for name in ("olga", TYPED):
        answers = [sign_in(client, name, WRONG) for _ in range(4)]
        pages[name] = [(a.status_code, text_of(a).count("under this name")) for a in answers]
    assert pages["olga"] == pages[TYPED] == [(200, 0), (200, 0), (429, 1), (429, 1)]


def test_a_lockout_affects_nobody_else(client: Client, olga: Any) -> None:
    make.user("otto", password=RIGHT)
    for _ in range(3):
        sign_in(client, password=WRONG)
    assert sign_in(client, "otto").status_code == 302
    assert sign_in(Client(REMOTE_ADDR="192.0.2.1")).status_code == 302


def test_typed_names_and_passwords_are_neither_stored_nor_logged(
    client: Client, olga: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(4):
        sign_in(client, TYPED, WRONG)
        sign_in(client, "olga", WRONG)
    sign_in(client, WRONG, TYPED)
    rows = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            rows += [str(row) for row in cursor.fetchall()]
    everything = "\n".join([*rows, caplog.text])
    assert "login.locked-out" in everything
    assert TYPED not in everything
    assert WRONG not in everything


@pytest.mark.django_db(transaction=True)
def test_of_many_guesses_at_once_none_succeeds_beyond_the_limit(
    olga: Any, monkeypatch: Any
) -> None:
    """All are let through to the password before one has failed."""
    gate = threading.Barrier(6)
    check, all_refused = User.check_password, threading.Event()

    def check_together(user: Any, password: str) -> bool:
        gate.wait(PATIENCE_S)
        if password == RIGHT:
            all_refused.wait(PATIENCE_S)
        return bool(check(user, password))

    monkeypatch.setattr(User, "check_password", check_together)
    statuses: dict[str, int] = {}

    def guess(password: str) -> None:
        try:
            statuses[password] = sign_in(Client(), password=password).status_code
        finally:
            connections.close_all()

    wrong = [threading.Thread(target=guess, args=(f"{WRONG}{n}",)) for n in range(5)]
    right = threading.Thread(target=guess, args=(RIGHT,))
    for thread in [*wrong, right]:
        thread.start()
    for thread in wrong:
        thread.join(PATIENCE_S)
    all_refused.set()
    right.join(PATIENCE_S)
    assert statuses[RIGHT] == 429
    assert sorted(AuditEntry.objects.values_list("kind", flat=True)) == [
        *["login.failed"] * 3,
        "login.locked-out",
    ]


@pytest.mark.parametrize(
    ("command", "by_name", "by_address"),
    [
        (["unlock", "--name", "olga"], True, False),
        (["unlock", "--address", "127.0.0.1"], False, True),
        (["unlock", "--name", "olga", "--address", "127.0.0.1"], True, True),
        (["unlock"], False, False),
        (["axes_reset_username", "otto", "olga"], True, False),
        (["axes_reset_ip", "127.0.0.1"], False, True),
        (["axes_reset"], False, False),
    ],
)
def test_commands_end_a_lockout(
    client: Client, olga: Any, command: list[str], by_name: bool, by_address: bool
) -> None:
    for _ in range(3):
        sign_in(client, password=WRONG)
    call_command(*command)
    assert sign_in(client).status_code == 302
    entry = AuditEntry.objects.get(kind="login.unlocked")
    account = "olga" if by_name else None
    assert entry.facts == {"account": account, "by_address": by_address, "counts": 1}


def test_other_lockouts_stay(client: Client, olga: Any) -> None:
    for _ in range(3):
        sign_in(client, password=WRONG)
    call_command("unlock", "--name", "otto")
    call_command("unlock", "--address", "192.0.2.1")
    assert sign_in(client).status_code == 429
    assert not AuditEntry.objects.filter(kind="login.unlocked").exists()


def test_a_session_of_an_older_version_stays_open(client: Client, olga: Any) -> None:
    """Its session names the backend that checked passwords then."""
    make.sign_in(client, olga)
    session = client.session
    session[BACKEND_SESSION_KEY] = "switcher.access.RoleBackend"
    session.save()
    assert client.get("/").status_code == 200


# -- People in the Django admin


def test_the_actor_of_a_change_is_who_is_signed_in(admin: Client) -> None:
    person = {"username": "eve", "password1": WRONG, "password2": WRONG, "usable_password": "true"}
    assert admin.post("/admin/auth/user/add/", person).status_code == 302
    eve = User.objects.get(username="eve")
    operators = Group.objects.get(name="operators")
    change = {
        "username": "eve",
        "is_active": "on",
        "is_staff": "on",
        "groups": [str(operators.pk)],
        "date_joined_0": "2026-11-24",
        "date_joined_1": "12:00:00",
    }
    assert admin.post(f"/admin/auth/user/{eve.pk}/change/", change).status_code == 302
    new = {"password1": f"{WRONG}2", "password2": f"{WRONG}2", "usable_password": "true"}
    assert admin.post(f"/admin/auth/user/{eve.pk}/password/", new).status_code == 302
    assert admin.post(f"/admin/auth/user/{eve.pk}/delete/", {"post": "yes"}).status_code == 302
    assert entries() == [
        ("user.added", "ada", "admin"),
        ("user.changed", "ada", "admin"),
        ("user.changed", "ada", "admin"),
        ("user.password-changed", "ada", "admin"),
        ("user.deleted", "ada", "admin"),
    ]
    changes = [e.facts for e in AuditEntry.objects.filter(kind="user.changed").order_by("seq")]
    assert changes[0]["after"] == {"is_staff": True}
    assert changes[1]["after"] == {"groups": ["operators"]}
    assert not any(WRONG in row.body for row in LedgerRow.objects.all())


def test_users_that_are_deleted_together_are_each_recorded(admin: Client) -> None:
    ids = [make.user(name).pk for name in ("olga", "otto")]
    values = {"action": "delete_selected", "_selected_action": ids, "post": "yes"}
    assert admin.post("/admin/auth/user/", values).status_code == 302
    rows = AuditEntry.objects.filter(kind="user.deleted").order_by("seq")
    assert sorted(row.facts["user"] for row in rows) == ["olga", "otto"]
    assert {row.actor for row in rows} == {"ada"}


def test_the_actor_of_a_changed_password_is_its_owner(client: Client, settings: Any) -> None:
    make.sign_in(client, make.user("olga", password=RIGHT))
    values = {"old_password": RIGHT, "new_password1": WRONG, "new_password2": WRONG}
    assert client.post("/admin/password_change/", values).status_code == 302
    assert entries() == [("user.password-changed", "olga", "admin")]


def test_the_audit_page_shows_and_finds_them(admin: Client, olga: Any) -> None:
    other = Client()
    for _ in range(3):
        sign_in(other, password=WRONG)
    sign_in(Client(REMOTE_ADDR="192.0.2.1"))
    olga.is_superuser = True
    olga.save()
    olga.groups.clear()
    text = text_of(admin.get("/audit/?kind=people"))
    for sentence in (
        "Failed to sign in.",
        "signing in with this name from this address is locked until",
        "Signed in.",
        "Changed user olga: is superuser false → true.",
        "Changed user olga: groups − operators.",
    ):
        assert sentence in text
    only = admin.get("/audit/?kind=login.locked-out")
    assert len(only.context["page"].rows) == 1
