from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client

from switcher import access
from switcher.access import AUDITORS
from switcher.models import AuditEntry, Host, ModelProfile
from switcher.records.keys import NewKey, make_key
from tests import make

pytestmark = pytest.mark.django_db

PROFILE = {"name": "phi", "tag": "phi4:14b", "keep_alive": "30m", "options": "{}", "warmups": "[]"}


def test_profile_is_saved_through_records(admin: Client) -> None:
    response = admin.post("/admin/switcher/modelprofile/add/", PROFILE)
    assert response.status_code == 302
    entry = AuditEntry.objects.get()
    assert (entry.kind, entry.actor) == ("profile.added", "ada")
    assert '"source":"admin"' in entry.body


def test_an_invalid_profile_gets_the_error_of_the_pages(admin: Client) -> None:
    wrong = PROFILE | {"keep_alive": "30"}
    page = admin.post("/admin/switcher/modelprofile/add/", wrong).content.decode()
    assert "30 has no unit. Write 30s for seconds" in page
    assert not ModelProfile.objects.exists()


def test_host_is_removed_not_deleted(admin: Client) -> None:
    host = make.host()
    make.ended_switch(host)
    response = admin.post(f"/admin/switcher/host/{host.pk}/delete/", {"post": "yes"})
    assert response.status_code == 302
    assert Host.objects.get().removed_at is not None


def test_a_profile_in_use_is_not_deleted(admin: Client) -> None:
    profile = make.profile("phi4:14b")
    make.ended_switch(make.host(), "phi4:14b")
    path = f"/admin/switcher/modelprofile/{profile.pk}/delete/"
    page = admin.post(path, {"post": "yes"}, follow=True).content.decode()
    assert ModelProfile.objects.exists()
    assert "Nothing was deleted." in page or "would require deleting" in page


def test_a_profile_with_keys_is_not_deleted_one_by_one_or_in_bulk(admin: Client) -> None:
    profile = make.profile("phi4:14b")
    make_key(NewKey("chat-ui", profiles=(profile.name,)), make.ANNA)
    path = f"/admin/switcher/modelprofile/{profile.pk}/delete/"
    page = admin.post(path, {"post": "yes"}, follow=True).content.decode()
    assert "Nothing was deleted. These keys are bound to phi4-14b: chat-ui" in page
    many = {"action": "delete_selected", "_selected_action": [profile.pk], "post": "yes"}
    admin.post("/admin/switcher/modelprofile/", many)
    assert ModelProfile.objects.exists()


@pytest.mark.parametrize("model", ["switchevent", "auditentry"])
def test_records_are_read_only(admin: Client, model: str) -> None:
    row = make.ended_switch(make.host())
    pk = row.pk if model == "switchevent" else AuditEntry.objects.values_list("pk")[0][0]
    assert admin.get(f"/admin/switcher/{model}/").status_code == 200
    page = admin.get(f"/admin/switcher/{model}/{pk}/change/")
    assert page.status_code == 200
    assert 'name="_save"' not in page.content.decode()
    assert admin.get(f"/admin/switcher/{model}/add/").status_code == 403
    assert admin.post(f"/admin/switcher/{model}/{pk}/delete/").status_code == 403
    assert admin.post(f"/admin/switcher/{model}/{pk}/change/", {}).status_code == 403


@pytest.mark.parametrize("model", ["lease", "reading", "origin", "failureseen"])
def test_internal_tables_are_not_in_the_admin(admin: Client, model: str) -> None:
    assert admin.get(f"/admin/switcher/{model}/").status_code == 404


def as_auditor(**values: object) -> Client:
    person = make.user("arno", AUDITORS, **values)
    for permission in Permission.objects.filter(content_type__app_label="switcher"):
        person.user_permissions.add(permission)
    client = Client()
    make.sign_in(client, person)
    return client


@pytest.mark.parametrize("superuser", [False, True])
def test_no_permission_lets_an_auditor_change_hosts_or_profiles(superuser: bool) -> None:
    auditor = as_auditor(is_superuser=superuser)
    host, profile = make.host(), make.profile("phi4:14b")
    for path in (
        f"host/{host.pk}/delete/",
        f"host/{host.pk}/change/",
        "host/add/",
        f"modelprofile/{profile.pk}/delete/",
        f"modelprofile/{profile.pk}/change/",
        "modelprofile/add/",
    ):
        response = auditor.post(f"/admin/switcher/{path}", PROFILE | {"post": "yes"})
        assert response.status_code == 403, path
    assert Host.objects.get().removed_at is None
    assert ModelProfile.objects.get().name == profile.name


def test_a_superuser_who_is_an_auditor_can_only_read_and_review() -> None:
    client = as_auditor(is_superuser=True)
    make.host()
    assert client.get("/audit/").status_code == 200
    assert client.get("/admin/auth/user/").status_code == 200  # where they leave the group again
    assert client.get("/hosts/add").status_code == 403
    assert client.post("/switch", {"host": "north-1", "plan": "x"}).status_code == 403
    person = get_user_model().objects.get()
    assert not access.can_switch(person)
    assert not access.can_administer(person)
    assert access.can_review(person)
    assert access.can_export(person)
