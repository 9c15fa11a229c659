from __future__ import annotations

from datetime import UTC, datetime

import pytest
import requests
from django.test import Client

from switcher.api import schemas
from switcher.domain.drift import Kind
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, Resident
from switcher.domain.specs import Spec
from switcher.models import Host, Reading, SwitchEvent
from switcher.records import readings, switches
from switcher.records.switches import ResolvedRequest
from tests import make
from tests.api.conftest import ADMIN, NEW, OLD, URL, Ollama, fail, finish, ps_row, refuse


def _switch(host: Host, tag: str = "qwen2.5:14b") -> SwitchEvent:
    return switches.open_switch(ResolvedRequest(host, Spec("", tag)), ADMIN)[0]


def test_models_are_read_freshly_from_the_host(host: Host, auditor: Client, ollama: Ollama) -> None:
    forever = "2319-03-05T08:44:36.997115614Z"
    ollama.resident = [ps_row("qwen2.5:7b", OLD), ps_row("other:latest", NEW, expires=forever)]
    ollama.serve()
    response = auditor.get("/ollama/models")
    assert response.status_code == 200
    body = response.json()
    schemas.Models.model_validate(body)
    assert list(body)[:5] == ["host", "active", "resident", "installed", "observed_at"]
    assert body["host"] == "tower"
    assert body["active"]["model"] == "qwen2.5:7b"
    assert body["active"]["digest"] == OLD
    assert body["active"]["resident"] is True
    assert [(r["name"], r["active"], r["stays"]) for r in body["resident"]] == [
        ("qwen2.5:7b", True, False),
        ("other:latest", False, True),
    ]
    assert body["resident"][1]["expires_at"] is None
    assert body["resident"][0]["gpu_percent"] == 100
    assert [i["name"] for i in body["installed"]] == ["qwen2.5:7b", "qwen2.5:14b"]
    assert datetime.fromisoformat(body["observed_at"]).tzinfo is not None
    assert body["error"] is None


def test_a_host_that_answers_is_not_called_unreachable(
    host: Host, auditor: Client, ollama: Ollama
) -> None:
    """The watcher ends that drift only at its own next reading."""
    ollama.serve()
    make.drift(host, Kind.UNREACHABLE, text="tower does not answer.", at=datetime.now(UTC))
    body = auditor.get("/ollama/models").json()
    assert (body["error"], body["drift"]) == (None, [])


def test_models_name_the_drift_that_is_open(host: Host, auditor: Client, ollama: Ollama) -> None:
    ollama.serve()
    assert auditor.get("/ollama/models").json()["drift"] == []
    text = "qwen2.5:7b was evicted."
    row = make.drift(host, Kind.EVICTED, "qwen2.5:7b", text, at=datetime.now(UTC), digest=OLD)
    (drift,) = auditor.get("/ollama/models").json()["drift"]
    assert (drift["kind"], drift["model"], drift["text"]) == ("evicted", "qwen2.5:7b", text)
    assert (drift["digest"], drift["repair"]) == (OLD, None)
    assert drift["since"] == row.since.isoformat()
    assert drift["evidence"] == row.evidence


def test_a_silent_host_shows_what_it_last_held_and_when(
    host: Host, auditor: Client, ollama: Ollama
) -> None:
    at = datetime(2026, 11, 1, 12, tzinfo=UTC)
    resident = (Resident(ModelName.parse("qwen2.5:7b"), OLD, 5, 5, 4096, None),)
    seen = Observation(at, resident, (Installed(ModelName.parse("qwen2.5:7b"), OLD, 4),))
    readings.store(host.pk, seen, 0)
    ollama.mock.get(f"{URL}/api/ps", body=requests.ConnectionError("Connection refused"))
    body = auditor.get("/ollama/models?host=tower").json()
    assert "ollama.test" in body["error"]
    assert body["observed_at"] == at.isoformat()
    assert [r["name"] for r in body["resident"]] == ["qwen2.5:7b"]
    assert body["active"]["resident"] is None, "nobody knows now"


def test_a_host_that_never_answered_has_no_time(
    host: Host, auditor: Client, ollama: Ollama
) -> None:
    ollama.mock.get(f"{URL}/api/ps", body=requests.ConnectionError("Connection refused"))
    body = auditor.get("/ollama/models").json()
    assert body["observed_at"] is None
    assert body["resident"] == []
    assert body["error"]
    assert Reading.objects.get().failures == 1


def test_an_unknown_host_is_404(host: Host, auditor: Client) -> None:
    response = auditor.get("/ollama/models?host=nowhere")
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"


def test_switches_come_newest_first_and_in_pages(host: Host, auditor: Client) -> None:
    ids = []
    for _ in range(5):
        row = _switch(host)
        refuse(row, "unreachable", "No connection.")
        ids.append(row.pk)
    first = auditor.get("/ollama/switches?limit=2&host=tower").json()
    assert [s["id"] for s in first["switches"]] == [ids[4], ids[3]]
    second = auditor.get(first["next"]).json()
    assert [s["id"] for s in second["switches"]] == [ids[2], ids[1]]
    third = auditor.get(second["next"]).json()
    assert [s["id"] for s in third["switches"]] == [ids[0]]
    assert third["next"] is None


def test_switches_are_filtered_by_host_and_state(host: Host, auditor: Client) -> None:
    won, lost = _switch(host), None
    finish(won)
    lost = _switch(host, "llama3:8b")
    fail(lost, "refused", "no")

    def ids(query: str) -> list[int]:
        return [s["id"] for s in auditor.get(f"/ollama/switches?{query}").json()["switches"]]

    assert ids("state=active") == [won.pk]
    assert ids("state=active&state=rolled_back") == [lost.pk, won.pk]
    assert ids("host=elsewhere") == []


@pytest.mark.parametrize(
    "query", ["state=done", "before=x", "before=0", f"before={2**63}", "limit=999", "hots=tower"]
)
def test_an_invalid_filter_is_422(host: Host, auditor: Client, query: str) -> None:
    response = auditor.get(f"/ollama/switches?{query}")
    assert response.status_code == 422
    assert repr(query.split("=")[0]) in response.json()["detail"]


def test_a_switch_shows_its_phases_and_what_was_loaded(host: Host, auditor: Client) -> None:
    row = _switch(host)
    fail(row, "not-done", "The answer ended early.")
    body = auditor.get(f"/ollama/switches/{row.pk}").json()
    assert body["state"] == "rolled_back"
    assert body["restored"] == "qwen2.5:7b"
    assert [p["phase"] for p in body["phases"]][-1] == "restoring"
    assert all(p["seconds"] is not None for p in body["phases"])
    assert body["after"][0]["name"] == "qwen2.5:7b"


@pytest.mark.parametrize("number", ["0", "4711", str(2**70)])
def test_a_switch_that_does_not_exist_is_404(host: Host, auditor: Client, number: str) -> None:
    assert auditor.get(f"/ollama/switches/{number}").status_code == 404


def test_cancelling_raises_the_flag_for_the_worker(host: Host, operator: Client) -> None:
    row = _switch(host)
    response = operator.delete(f"/ollama/switches/{row.pk}")
    assert response.status_code == 202
    assert response["Location"] == f"/ollama/switches/{row.pk}"
    assert response.json()["cancel_asked_by"] == "olga"
    row.refresh_from_db()
    assert row.cancel_asked_by == "olga"


def test_an_ended_switch_cannot_be_cancelled(host: Host, operator: Client) -> None:
    row = _switch(host)
    finish(row)
    assert operator.delete(f"/ollama/switches/{row.pk}").status_code == 409
    assert operator.delete("/ollama/switches/4711").status_code == 404


def test_the_description_names_every_operation(auditor: Client) -> None:
    paths = auditor.get("/api/openapi.json").json()["paths"]
    assert set(paths) == {
        "/ollama/models/switch",
        "/ollama/models",
        "/ollama/models/resident/{digest}",
        "/ollama/models/unload",
        "/ollama/switches",
        "/ollama/switches/{switch_id}",
        "/ollama/usage",
        "/audit/export",
    }
    assert set(paths["/ollama/switches/{switch_id}"]) == {"get", "delete"}
    answers = paths["/ollama/models/switch"]["post"]["responses"]
    assert {"200", "202", "401", "409", "502"} <= set(map(str, answers))
    assert set(answers["502"]["content"]) == {"application/problem+json"}


def test_the_docs_page_loosens_the_policy_only_for_images(auditor: Client) -> None:
    response = auditor.get("/api/docs")
    assert response.status_code == 200
    policy = dict(p.split(" ", 1) for p in response["Content-Security-Policy"].split("; "))
    assert policy["img-src"] == "'self' data:"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "://" not in response.content.decode().replace("http://www.w3.org", "")
