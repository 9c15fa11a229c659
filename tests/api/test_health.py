"""`/health`: the state of the audit trail, for a monitor without an account."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.test import Client

from switcher.audit import health
from switcher.audit.deliveries import Deliverer
from switcher.audit.paths import FILE, Sink
from switcher.audit.signing_keys import KeyFiles
from tests import make
from tests.audit.conftest import Background

pytestmark = pytest.mark.django_db


def test_it_answers_without_signing_in(proofs: KeyFiles, client: Client) -> None:
    response = client.get("/health")
    assert (response.status_code, response["Cache-Control"]) == (200, "no-store")
    body = response.json()
    assert (body["ok"], body["problems"]) == (True, [])
    assert body["audit"]["sinks"] == [
        {"name": "file", "ok": True, "waiting": 0, "delivered_at": None}
    ]


def test_it_shows_the_age_of_the_last_checkpoint(proofs: KeyFiles, client: Client) -> None:
    make.host()
    Background().begin()
    Deliverer(Sink(FILE, str(proofs.private.with_name("anchors.txt")))).tick()
    body = client.get("/health").json()["audit"]
    assert body["signed"] == 2
    assert 0 <= body["last_checkpoint_age_s"] < 60
    assert (body["key"], body["seals"], body["last_verified_ok"]) == ("ok", "ok", True)


def test_it_shows_no_path_and_no_address(
    proofs: KeyFiles, client: Client, settings: object, tmp_path: Path
) -> None:
    make.host(base_url="http://canary.test:11434")
    Background().begin()
    proofs.private.chmod(0o644)
    response = client.get("/health")
    assert response.json()["problems"][0] == "The signing key cannot be used."
    assert str(tmp_path) not in json.dumps(response.json())
    assert "canary" not in response.content.decode()


def test_it_can_only_be_read(client: Client) -> None:
    assert client.post("/health").status_code == 405
    assert client.head("/health").status_code == 200


def test_it_says_so_if_the_state_cannot_be_read(
    proofs: KeyFiles, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("a hostile row")

    monkeypatch.setattr(health, "trail_status", breaks)
    body = client.get("/health").json()
    assert body == {"ok": False, "problems": [health.UNKNOWN], "audit": None}
    assert health.problems() == (health.UNKNOWN,)
