from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses
from django.test import Client

from switcher.access import AUDITORS
from switcher.domain.observed import Installed, Resident
from tests import make


class FakeOllama:
    """Answers of an Ollama server, shaped like the recorded ones."""

    def __init__(self, mocked: responses.RequestsMock) -> None:
        self.mocked = mocked

    def holds(
        self,
        *resident: Resident,
        on_disk: tuple[Installed, ...] = (),
        url: str = "http://north-1.test:11434",
    ) -> None:
        """List these models from now on."""
        self._answer(f"{url}/api/ps", {"models": [_loaded(r) for r in resident]})
        self._answer(f"{url}/api/tags", {"models": [_file(i) for i in on_disk]})
        self._answer(f"{url}/api/version", {"version": "0.12.6"})

    def _answer(self, url: str, body: dict[str, Any]) -> None:
        self.mocked.upsert("GET", url, json=body)


def _loaded(r: Resident) -> dict[str, Any]:
    assert r.expires_at is not None
    return {
        "name": r.name.full,
        "model": r.name.full,
        "size": r.size,
        "digest": r.digest,
        "details": {"family": "llama"},
        "expires_at": r.expires_at.strftime("%Y-%m-%dT%H:%M:%S.123456789Z"),
        "size_vram": r.size_vram,
        "context_length": r.context_length,
    }


def _file(i: Installed) -> dict[str, Any]:
    return {
        "name": i.name.full,
        "model": i.name.full,
        "modified_at": "2026-11-23T08:55:46.552126116Z",
        "size": i.size,
        "digest": i.digest,
        "capabilities": list(i.capabilities),
    }


@pytest.fixture
def ollama() -> Iterator[FakeOllama]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked:
        yield FakeOllama(mocked)


@pytest.fixture
def sign_in(db: None) -> Callable[..., Client]:
    def go(role: str = "operators", name: str = "olga", **values: Any) -> Client:
        client = Client(**values)
        make.sign_in(client, make.user(name, role))
        return client

    return go


@pytest.fixture
def operator(sign_in: Callable[..., Client]) -> Client:
    return sign_in()


@pytest.fixture
def auditor(sign_in: Callable[..., Client]) -> Client:
    return sign_in(AUDITORS, "arno")


@pytest.fixture
def admin(sign_in: Callable[..., Client]) -> Client:
    return sign_in("admin", "ada")
