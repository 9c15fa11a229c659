"""API keys that may switch: from a script or a pipeline, without a person's session."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client

from switcher.models import ApiKey, AuditEntry, Host, ModelProfile, SwitchEvent
from switcher.records import keys, refused_keys
from switcher.records.config import save_host
from switcher.records.keys import NewKey
from tests.api.conftest import ADMIN, Ollama, finish
from tests.api.test_switch import SWITCH

BODY = {"model": "qwen2.5:14b", "wait": False}


@pytest.fixture(autouse=True)
def nothing_recorded_yet() -> Iterator[None]:
    refused_keys.throttle.reset()
    yield
    refused_keys.throttle.reset()


def make_key(**facts: Any) -> str:
    return keys.make_key(NewKey("pipeline", **{"may_switch": True, **facts}), ADMIN)[1]


def switch(client: Client, token: str, **body: Any) -> Any:
    return client.post(
        SWITCH,
        json.dumps(BODY | body),
        "application/json",
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )


def test_a_key_with_the_scope_switches_and_stands_in_the_trail(host: Host, client: Client) -> None:
    response = switch(client, make_key())
    assert response.status_code == 202
    row = SwitchEvent.objects.get()
    assert (row.actor, row.source, row.origin.ip) == ("key pipeline", "api", "127.0.0.1")
    entry = AuditEntry.objects.get(kind="switch.queued")
    assert entry.actor == "key pipeline"
    assert ApiKey.objects.get().last_used_at is not None


def test_it_may_poll_the_switch(host: Host, client: Client) -> None:
    token = make_key()
    url = switch(client, token)["Location"]
    finish(SwitchEvent.objects.get())
    response = client.get(url, headers={"X-Api-Key": token})
    assert (response.status_code, response.json()["state"]) == (200, "active")


@pytest.mark.parametrize("scheme", ["bearer", "x-api-key", "basic"])
def test_it_is_found_wherever_the_gateway_finds_it(host: Host, client: Client, scheme: str) -> None:
    token = make_key()
    headers = {
        "bearer": {"Authorization": f"Bearer {token}"},
        "x-api-key": {"Authorization": "Bearer ollama", "X-Api-Key": token},
        "basic": {"Authorization": f"Basic {base64.b64encode(f'x:{token}'.encode()).decode()}"},
    }[scheme]
    response = client.post(SWITCH, json.dumps(BODY), "application/json", headers=headers)
    assert response.status_code == 202


def test_a_key_in_the_address_does_not_switch(host: Host, client: Client) -> None:
    response = client.post(f"{SWITCH}?key={make_key()}", json.dumps(BODY), "application/json")
    assert response.status_code == 401


@pytest.mark.parametrize("facts", [{"may_switch": False}, {"may_switch": False, "manage": True}])
def test_other_scopes_do_not_switch(host: Host, client: Client, facts: dict[str, Any]) -> None:
    response = switch(client, make_key(**facts))
    assert response.status_code == 403
    assert response.json()["detail"] == "Key pipeline may not switch models."
    assert not SwitchEvent.objects.exists()


def test_a_key_that_does_not_work_is_refused_and_recorded(host: Host, client: Client) -> None:
    token = make_key()
    ApiKey.objects.update(off_at=datetime.now(UTC))
    for sent in (token, "sb-unknown"):
        assert switch(client, sent).status_code == 401
    entries = AuditEntry.objects.filter(kind="key.refused").order_by("seq")
    assert [entry.facts["why"] for entry in entries] == ["it is off", "no such key"]
    assert not SwitchEvent.objects.exists()


def test_an_expired_key_is_refused(host: Host, client: Client) -> None:
    token = make_key()
    ApiKey.objects.update(expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert switch(client, token).status_code == 401


def test_it_is_bound_to_its_hosts(host: Host, client: Client) -> None:
    other = save_host(Host(name="den", base_url="http://other.test:11434"), ADMIN)
    bound = make_key(hosts=("den",))
    response = switch(client, bound, host="tower")
    assert response.status_code == 403
    assert response.json()["detail"] == "Key pipeline is not valid for tower."
    assert "active" not in response.json()
    assert switch(client, bound).status_code == 202  # its only host
    row = SwitchEvent.objects.get()
    assert row.host_id == other.pk
    theirs = make_key(hosts=("tower",))
    url = f"/ollama/switches/{row.pk}"
    assert client.get(url, headers={"X-Api-Key": theirs}).status_code == 403
    assert client.get(url, headers={"X-Api-Key": bound}).status_code == 200


def test_it_is_bound_to_its_profiles(host: Host, profile: ModelProfile, client: Client) -> None:
    bound = make_key(profiles=("coder",))
    for refused in ({"model": "qwen2.5:7b"}, {"profile": None}):
        assert switch(client, bound, **refused).status_code == 403
    assert switch(client, bound).status_code == 202
    assert SwitchEvent.objects.get().to_spec["profile"] == "coder"


def test_a_dry_run_is_bound_too(
    host: Host, profile: ModelProfile, client: Client, ollama: Ollama
) -> None:
    ollama.serve()
    bound = make_key(profiles=("coder",))
    assert switch(client, bound, dry_run=True).json()["plan"]["profile"] == "coder"
    assert switch(client, bound, dry_run=True, model="qwen2.5:7b").status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/ollama/models"),
        ("get", "/ollama/switches"),
        ("get", "/ollama/usage"),
        ("get", "/audit/export"),
        ("delete", "/ollama/switches/1"),
        ("delete", "/ollama/models/resident/aaaaaaaaaaaa"),
    ],
)
def test_a_key_opens_nothing_else(host: Host, client: Client, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {make_key(manage=True)}"}
    assert getattr(client, method)(path, headers=headers).status_code == 401


def test_another_sites_page_cannot_use_it(host: Host, client: Client) -> None:
    headers = {"Authorization": f"Bearer {make_key()}", "Origin": "http://localhost:3000"}
    response = client.post(SWITCH, json.dumps(BODY), "application/json", headers=headers)
    assert response.status_code == 403
    assert not SwitchEvent.objects.exists()
