from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import responses
from django.contrib.auth.models import Group, User
from django.test import Client

from switcher.domain.states import State
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.records import Actor, claimed_switch, leases, switches
from switcher.records.config import save_host, save_profile
from tests import make
from tests.api.declared import check_declared, document

URL = "http://ollama.test:11434"
ADMIN = Actor("anna", "page")
OLD, NEW = "a" * 64, "b" * 64
GB = 1_000_000_000


def ps_row(name: str, digest: str, size: int = 5 * GB, expires: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "digest": digest,
        "size": size,
        "size_vram": size,
        "context_length": 4096,
        "expires_at": expires or "2030-01-01T00:00:00.123456789Z",
    }


def tag_row(name: str, digest: str, size: int = 4 * GB) -> dict[str, Any]:
    return {"name": name, "digest": digest, "size": size, "capabilities": ["completion"]}


class Ollama:
    """What the fake server of a test lists."""

    def __init__(self, mock: responses.RequestsMock) -> None:
        self.mock = mock
        self.resident = [ps_row("qwen2.5:7b", OLD)]
        self.installed = [tag_row("qwen2.5:7b", OLD), tag_row("qwen2.5:14b", NEW, 9 * GB)]

    def serve(self) -> None:
        self.mock.get(f"{URL}/api/ps", json={"models": self.resident})
        self.mock.get(f"{URL}/api/tags", json={"models": self.installed})
        self.mock.get(f"{URL}/api/version", json={"version": "0.12.0"})


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield Ollama(mock)


@pytest.fixture
def host(transactional_db: None) -> Host:
    host = save_host(Host(name="tower", base_url=URL, vram_bytes=24 * GB), ADMIN)
    Host.objects.filter(pk=host.pk).update(active_tag="qwen2.5:7b", active_digest=OLD)
    host.refresh_from_db()
    return host


@pytest.fixture
def profile(transactional_db: None) -> ModelProfile:
    return save_profile(ModelProfile(name="coder", tag="qwen2.5:14b", keep_alive="2h"), ADMIN)


class DeclaredClient(Client):
    """Compares every answer with what the OpenAPI document declares for it."""

    def request(self, **request: Any) -> Any:
        response = super().request(**request)
        check_declared(document(), response)
        return response


@pytest.fixture
def client() -> Client:
    return DeclaredClient()


def _client(name: str, **fields: Any) -> Client:
    client = DeclaredClient()
    make.sign_in(client, make.user(name, role="", **fields))
    return client


@pytest.fixture
def operator(transactional_db: None) -> Client:
    client = _client("olga", is_staff=True)
    group, _ = Group.objects.get_or_create(name="operators")
    membership = User.groups.through
    olga = User.objects.get(username="olga")
    membership.objects.bulk_create([membership(user_id=olga.pk, group_id=group.pk)])
    return client


@pytest.fixture
def auditor(transactional_db: None) -> Client:
    return _client("arthur", is_staff=True)


@pytest.fixture
def outsider(transactional_db: None) -> Client:
    return _client("otto")


def open_switch() -> SwitchEvent | None:
    return SwitchEvent.objects.filter(ended_at=None).first()


def run_to_activating(row: SwitchEvent) -> switches.ClaimedSwitch:
    """Take a queued switch through its phases as the worker does, up to the activation."""
    fence = leases.take(row.host_id, "test")
    assert fence is not None
    claimed = claimed_switch.claim(row.pk, fence)
    assert claimed is not None
    claimed.move(State.CHECKING)
    claimed.note(strategy="overlap", strategy_reason="it fits", to_digest=NEW, plan={"unload": []})
    for state in (State.LOADING, State.WARMING, State.VERIFYING, State.ACTIVATING):
        claimed.move(state)
    return claimed


def finish(row: SwitchEvent) -> None:
    """End it well: the new model is active."""
    claimed = run_to_activating(row)
    claimed.activate(State.ACTIVE, NEW, outcome="qwen2.5:14b is active on tower.", after=[])
    leases.give_back(row.host_id, claimed.fence)


def fail(row: SwitchEvent, code: str, error: str) -> None:
    """End it badly: rolled back, the old model was restored."""
    claimed = run_to_activating(row)
    claimed.move(State.RESTORING, error_code=code, error=error)
    claimed.end(
        State.ROLLED_BACK,
        restored="qwen2.5:7b",
        outcome="qwen2.5:7b is active again.",
        after=[
            {
                "name": "qwen2.5:7b",
                "digest": OLD,
                "size": 5 * GB,
                "size_vram": 5 * GB,
                "context_length": 4096,
                "expires_at": None,
            }
        ],
    )
    leases.give_back(row.host_id, claimed.fence)


def refuse(row: SwitchEvent, code: str, error: str) -> None:
    """End it while it is being checked: nothing was touched."""
    fence = leases.take(row.host_id, "test")
    assert fence is not None
    claimed = claimed_switch.claim(row.pk, fence)
    assert claimed is not None
    claimed.move(State.CHECKING)
    claimed.end(State.FAILED, error_code=code, error=error, outcome="Nothing was touched on tower.")
    leases.give_back(row.host_id, claimed.fence)
