"""The published name on the page of a host's clients."""

from __future__ import annotations

import pytest
from django.test import Client

from switcher.models import AuditEntry, Host
from switcher.records import config
from tests import make

pytestmark = pytest.mark.django_db
PATH = "/hosts/north-1/publish"


@pytest.fixture
def host() -> Host:
    disk = (make.installed("llama3.1:8b"), make.installed("taken:latest"))
    return make.host(seen=make.seen(on_disk=disk))


@pytest.fixture
def admin(client: Client) -> Client:
    make.sign_in(client, make.user("ada", "admin"))
    return client


def test_a_published_name_is_set_and_what_is_pending_is_shown(host: Host, admin: Client) -> None:
    text = admin.post(PATH, {"published_name": "Active"}, follow=True).content.decode()
    assert "it will be carried out as soon as possible. No model is active yet." in text
    assert Host.objects.get().published_name == "active:latest"
    entry = AuditEntry.objects.filter(kind="host.changed").latest("seq")
    assert entry.facts["before"] == {"published_name": ""}
    assert entry.facts["after"] == {"published_name": "active:latest"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("taken", "has a model taken that is not Switchboard"),
        ("LLAMA3.1:8b", "has a model llama3.1:8b that is not Switchboard"),
        ("no name", "That is not a model name."),
        ("switchboard-holds/x:1", "is a copy that Switchboard keeps"),
    ],
)
def test_an_impossible_name_is_refused_with_its_reason(
    host: Host, admin: Client, name: str, reason: str
) -> None:
    response = admin.post(PATH, {"published_name": name})
    assert response.status_code == 422
    assert reason in response.content.decode()
    assert Host.objects.get().published_name == ""


def test_an_empty_name_ends_publishing(host: Host, admin: Client) -> None:
    config.put_host({"published_name": "active:latest"}, make.ANNA, host.pk)
    assert admin.post(PATH, {"published_name": ""}, follow=True).status_code == 200
    assert Host.objects.get().published_name == ""


@pytest.mark.parametrize("role", ["operators", "auditors"])
def test_only_admins_set_the_published_name(host: Host, client: Client, role: str) -> None:
    make.sign_in(client, make.user("olga", role))
    assert client.post(PATH, {"published_name": "active"}).status_code == 403
    assert "A name on Ollama itself" in client.get("/hosts/north-1/clients").content.decode()


def test_a_published_name_is_not_listed_as_a_model(admin: Client) -> None:
    disk = (make.installed("llama3.1:8b"), make.installed("active"))
    host = make.host(seen=make.seen(make.resident("active"), on_disk=disk))
    facts = {"published_as": "active:latest", "published_tag": "llama3.1:8b"}
    Host.objects.filter(pk=host.pk).update(published_name="active:latest", **facts)
    text = admin.get("/hosts/north-1/").content.decode()
    assert '<span class="mono">active:latest</span>' not in text
    assert "llama3.1:8b" in text
