"""Freeing a ghost through the API; model copies are never listed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client

from switcher.models import AuditEntry, Host, ModelCopy
from tests.api.conftest import NEW, OLD, URL, Ollama, ps_row, tag_row

pytestmark = pytest.mark.django_db(transaction=True)

HANDLE = "switchboard-holds/gemma2:cccccccccccc"
GHOST = "c" * 64
OURS = f"/ollama/models/resident/{GHOST}"


@pytest.fixture
def ghost(host: Host, ollama: Ollama) -> Ollama:
    """gemma2 was pulled again while it was loaded; a model copy reaches the old content."""
    ModelCopy.objects.create(
        host=host, digest=GHOST, tag="gemma2:latest", name=HANDLE, made_at=datetime.now(UTC)
    )
    ollama.resident.append(ps_row("gemma2:latest", GHOST))
    ollama.installed += [tag_row("gemma2:latest", "d" * 64), tag_row(HANDLE, GHOST)]
    ollama.serve()
    return ollama


def leaves(ollama: Ollama) -> None:
    """Let the model unload when it is asked for through its copy."""

    def unload(request: Any) -> tuple[int, dict[str, str], str]:
        assert HANDLE in request.body.decode()
        ollama.resident[:] = [r for r in ollama.resident if r["digest"] != GHOST]
        ollama.mock.upsert("GET", f"{URL}/api/ps", json={"models": ollama.resident})
        return 200, {}, '{"done": true, "done_reason": "unload"}'

    ollama.mock.add_callback("POST", f"{URL}/api/generate", unload)
    ollama.mock.delete(f"{URL}/api/delete", body=b"")


def test_a_ghost_is_freed(operator: Client, ghost: Ollama) -> None:
    leaves(ghost)
    response = operator.delete(OURS + "?host=tower")
    assert response.status_code == 200, response.content
    assert response.json() == {
        "freed": True,
        "host": "tower",
        "model": "gemma2:latest",
        "digest": GHOST,
        "bytes": 5_000_000_000,
    }
    assert not ModelCopy.objects.exists()
    entry = AuditEntry.objects.get(kind="ghost.freed")
    assert (entry.actor, entry.host) == ("olga", "tower")


def test_a_refusal_says_why(operator: Client, ghost: Ollama) -> None:
    for digest, status, text in (
        (OLD, 409, "qwen2.5:7b is active on tower"),
        (NEW, 404, "No model with the digest bbbbbbbbbbbb is loaded on tower."),
        ("abc", 422, "Give at least 12 digits"),
    ):
        response = operator.delete(f"/ollama/models/resident/{digest}")
        assert response.status_code == status
        assert response["Content-Type"] == "application/problem+json"
        assert text in response.json()["detail"]
    assert operator.delete(OURS + "?host=nowhere").status_code == 404


def test_a_ghost_that_no_name_reaches_is_not_freed(operator: Client, ghost: Ollama) -> None:
    ghost.installed.pop()
    ghost.serve()
    ghost.mock.upsert("GET", f"{URL}/api/tags", json={"models": ghost.installed})
    response = operator.delete(OURS)
    assert response.status_code == 409
    assert "No name on tower reaches gemma2 any more" in response.json()["detail"]


def test_freeing_needs_the_right_to_switch(auditor: Client, client: Client, ghost: Ollama) -> None:
    assert auditor.delete(OURS).status_code == 403
    assert client.delete(OURS).status_code == 401


def test_models_are_listed_without_copies_and_by_their_own_names(
    operator: Client, ghost: Ollama
) -> None:
    ghost.resident[-1] = ps_row(HANDLE, GHOST)
    ghost.mock.upsert("GET", f"{URL}/api/ps", json={"models": ghost.resident})
    body = operator.get("/ollama/models").json()
    assert [m["name"] for m in body["installed"]] == ["qwen2.5:7b", "qwen2.5:14b", "gemma2:latest"]
    assert [m["name"] for m in body["resident"]] == ["qwen2.5:7b", "gemma2:latest"]


def test_a_switch_to_a_copy_is_refused(operator: Client, ghost: Ollama) -> None:
    response = operator.post(
        "/ollama/models/switch", {"model": HANDLE}, content_type="application/json"
    )
    assert response.status_code == 422
    assert "is a copy that Switchboard keeps" in response.json()["detail"]
