"""The page of API keys."""

from __future__ import annotations

import re
from importlib import import_module

import pytest
from django.apps import apps
from django.core.management import call_command
from django.test import Client

from switcher.models import ApiKey, AuditEntry
from switcher.records import config, keys
from switcher.records.keys import NewKey
from tests import make
from tests.make import ANNA
from tests.panel.test_board import text_of

pytestmark = pytest.mark.django_db

FORM = {"name": "chat-ui", "requests_a_minute": "60", "expires_on": "2099-12-31"}


def test_a_key_is_made_and_shown_once(admin: Client) -> None:
    make.host("north-1")
    response = admin.post(
        "/keys/add", FORM | {"hosts": ["north-1"], "manage": "on", "may_switch": "on"}
    )
    assert response.status_code == 201
    assert "no-store" in response["Cache-Control"]
    (token,) = re.findall(r'value="(sb-[^"]+)"', response.content.decode())
    row = ApiKey.objects.get()
    assert row.sha256 == keys.digest_of(token)
    assert (row.requests_a_minute, row.manage, row.may_switch) == (60, True, True)
    page = admin.get("/keys/").content.decode()
    assert token not in page
    assert row.prefix in page
    assert "60 per minute" in page
    assert "may switch models" in page


def test_what_is_wrong_is_said_at_its_field_and_nothing_is_made(admin: Client) -> None:
    response = admin.post("/keys/add", FORM | {"expires_on": "2001-01-01", "at_once": "0"})
    assert response.status_code == 422
    assert not ApiKey.objects.exists()
    assert "No key was made." in response.content.decode()


def test_a_key_is_turned_off_for_good(admin: Client) -> None:
    key_id, _ = keys.make_key(NewKey("bot"), ANNA)
    page = admin.post(f"/keys/{key_id}/off", follow=True).content.decode()
    assert "The key is off." in page
    assert "Off since" in page
    page = admin.post(f"/keys/{key_id}/off", follow=True).content.decode()
    assert "bot is already off." in page
    assert AuditEntry.objects.filter(kind="key.off").count() == 1


def test_a_profile_that_a_key_is_bound_to_is_not_deleted(admin: Client) -> None:
    make.profile("phi4:14b", "phi")
    keys.make_key(NewKey("bot", profiles=("phi",)), ANNA)
    page = admin.get("/profiles/phi/edit")
    assert "Keys are limited to it." in text_of(page)
    assert "/profiles/phi/delete" not in page.content.decode()
    response = admin.post("/profiles/phi/delete", follow=True)
    assert "Nothing was deleted. These keys are bound to phi: bot" in text_of(response)


def test_a_key_whose_hosts_are_gone_is_not_shown_as_unlimited(
    admin: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    host, profile = make.host("north-1"), make.profile("phi4:14b", "phi")
    keys.make_key(NewKey("bot", hosts=("north-1",), profiles=("phi",)), ANNA)
    config.remove_host(host.pk, ANNA)
    profile.delete()
    page = text_of(admin.get("/keys/"))
    assert "no host left" in page
    assert "no model left" in page
    assert "all hosts" not in page
    call_command("keys")
    assert "none left" in capsys.readouterr().out


def test_migrated_keys_keep_their_scope(db: None) -> None:
    make.host("north-1")
    make.profile("phi4:14b", "phi")
    for name, bound in (("all", {}), ("one", {"hosts": ("north-1",), "profiles": ("phi",)})):
        keys.make_key(NewKey(name, **bound), ANNA)
    ApiKey.objects.update(all_hosts=False, all_profiles=False)  # as the columns are added
    import_module("switcher.migrations.0009_bound_keys").open_what_was_open(apps, None)
    rows = ApiKey.objects.values_list("name", "all_hosts", "all_profiles")
    assert set(rows) == {("all", True, True), ("one", False, False)}


def test_form_and_list_explain_how_limits_are_counted(
    admin: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = "divided evenly among the gateway processes, rounded up"
    assert counted in text_of(admin.get("/keys/add"))
    keys.make_key(NewKey("free"), ANNA)
    assert counted not in text_of(admin.get("/keys/"))
    keys.make_key(NewKey("bot", at_once=4), ANNA)
    assert counted in text_of(admin.get("/keys/"))
    with pytest.raises(SystemExit):
        call_command("keys", "make", "--help")
    assert counted in " ".join(capsys.readouterr().out.split())


def test_only_admins_make_keys(operator: Client, auditor: Client) -> None:
    key_id, _ = keys.make_key(NewKey("bot"), ANNA)
    for client in (operator, auditor):
        assert client.get("/keys/").status_code == 200
        assert client.get("/keys/add").status_code == 403
        assert client.post("/keys/add", FORM).status_code == 403
        assert client.post(f"/keys/{key_id}/off").status_code == 403
    assert ApiKey.objects.get().off_at is None


def test_the_command_makes_and_lists_keys(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("keys", "make", "bot", "--at-once", "4", "--days", "30")
    token = capsys.readouterr().out.strip()
    row = ApiKey.objects.get(sha256=keys.digest_of(token))
    assert row.expires_at is not None
    call_command("keys")
    assert row.prefix in capsys.readouterr().out
    call_command("keys", "off", str(row.pk))
    row.refresh_from_db()
    assert row.off_at is not None
