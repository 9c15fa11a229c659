"""`/health`: whether all is well with the trail, for a monitor that has no account."""

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
    told = response.json()
    assert (told["ok"], told["problems"]) == (True, [])
    assert told["audit"]["sinks"] == [
        {"name": "file", "ok": True, "waiting": 0, "delivered_at": None}
    ]


def test_it_tells_how_old_the_last_checkpoint_is(proofs: KeyFiles, client: Client) -> None:
    make.host()
    Background().begin()
    Deliverer(Sink(FILE, str(proofs.private.with_name("anchors.txt")))).tick()
    told = client.get("/health").json()["audit"]
    assert told["signed"] == 2
    assert 0 <= told["last_checkpoint_age_s"] < 60
    assert (told["key"], told["seals"], told["last_verified_ok"]) == ("ok", "ok", True)


def test_it_tells_no_path_and_no_address(
    proofs: KeyFiles, client: Client, settings: object, tmp_path: Path
) -> None:
    make.host(base_url="http://canary.test:11434")
    Background().begin()
    proofs.private.chmod(0o644)
    response = client.get("/health")
    assert response.json()["problems"][0] == "The signing key cannot be used."
    assert str(tmp_path) not in json.dumps(response.json())
    assert "canary" not in response.content.decode()


def test_it_is_only_read(client: Client) -> None:
    assert client.post("/health").status_code == 405
    assert client.head("/health").status_code == 200


def test_it_tells_that_it_cannot_tell(
    proofs: KeyFiles, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("a hostile row")

    monkeypatch.setattr(health, "trail", breaks)
    told = client.get("/health").json()
    assert told == {"ok": False, "problems": [health.UNKNOWN], "audit": None}
    assert health.problems() == (health.UNKNOWN,)
