from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from django.db import OperationalError, connections
from django.http import HttpResponse
from django.test import Client

from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.records import claimed_switch
from tests.api.conftest import NEW, URL, Ollama, fail, finish, open_switch, refuse
from tests.until import PATIENCE_S, until

SWITCH = "/ollama/models/switch"
Begin = Callable[..., Any]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Send a request in a thread, as a client that waits does."""
    with ThreadPoolExecutor() as pool:

        def send(client: Client, body: str, **headers: str) -> Any:
            def call() -> HttpResponse:
                try:
                    return client.post(
                        SWITCH, body, "application/x-www-form-urlencoded", headers=headers
                    )
                finally:
                    connections.close_all()

            return pool.submit(call)

        yield send


def test_the_answer_comes_when_the_model_is_active(
    host: Host, operator: Client, begin: Begin
) -> None:
    waiting = begin(operator, '{"model": "qwen2.5:14b", "reason": "better at code"}')
    row = until(open_switch)
    assert not waiting.done()
    finish(row)
    response = waiting.result(timeout=PATIENCE_S)
    assert response.status_code == 200
    body = response.json()
    assert list(body) == [
        "success",
        "model",
        "profile",
        "previous_model",
        "host",
        "strategy",
        "event",
        "duration_s",
        "phases",
        "note",
    ]
    assert body["success"] is True
    assert body["model"] == "qwen2.5:14b"
    assert body["previous_model"] == "qwen2.5:7b"
    assert body["strategy"] == "overlap"
    assert body["event"] == {"id": row.pk, "url": f"/ollama/switches/{row.pk}"}
    assert body["duration_s"] >= 0
    assert [p["phase"] for p in body["phases"]][:2] == ["checking", "loading"]
    assert body["note"] == (
        "Model physically unloaded and reloaded in Ollama. No server restart needed."
    )
    row.refresh_from_db()
    assert (row.actor, row.source, row.reason) == ("olga", "api", "better at code")
    assert row.origin.ip == "127.0.0.1"


def test_it_says_that_the_model_was_active_already(
    host: Host, operator: Client, begin: Begin
) -> None:
    waiting = begin(operator, '{"model": "qwen2.5:7b"}')
    row = until(open_switch)
    from switcher.domain.states import State
    from switcher.records import leases

    claimed = claimed_switch.claim(row.pk, leases.take(host.pk, "test") or 0)
    assert claimed is not None
    claimed.move(State.CHECKING)
    claimed.end(State.ACTIVE, figures={"already_active": True}, outcome="It was active already.")
    body = waiting.result(timeout=PATIENCE_S).json()
    assert body["success"] is True
    assert body["already_active"] is True
    assert "Nothing was unloaded or loaded" in body["note"]


def test_it_does_not_speak_of_a_load_where_the_model_was_in_memory(
    host: Host, operator: Client, begin: Begin
) -> None:
    """Such as a pinned one. The name is answered in full, however it was asked for."""
    waiting = begin(operator, '{"model": "GEMMA2"}')
    row = until(open_switch)
    SwitchEvent.objects.filter(pk=row.pk).update(figures={"was_loaded": True})
    finish(row)
    body = waiting.result(timeout=PATIENCE_S).json()
    assert body["model"].lower() == "gemma2:latest"
    assert body["note"].endswith("It has answered.")
    assert "in memory already" in body["note"]
    assert "reloaded" not in body["note"]


def test_a_failed_load_names_what_is_active_and_what_was_restored(
    host: Host, operator: Client, begin: Begin
) -> None:
    waiting = begin(operator, '{"model": "qwen2.5:14b"}')
    row = until(open_switch)
    fail(row, "refused", "Ollama answered 500: out of memory")
    response = waiting.result(timeout=PATIENCE_S)
    assert response.status_code == 502
    assert response["Content-Type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == "urn:switchboard:problem:refused"
    assert body["status"] == 502
    assert "out of memory" in body["detail"]
    assert body["active"]["model"] == "qwen2.5:7b"
    assert body["active"]["resident"] is True
    assert body["restored"] == "qwen2.5:7b"
    assert body["instance"] == f"/ollama/switches/{row.pk}"
    assert body["event"]["id"] == row.pk


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("unreachable", 503),
        ("server-busy", 503),
        ("timed-out", 504),
        ("no-such-model", 404),
        ("plan-blocked", 404),
        ("plan-outdated", 409),
        ("cancelled", 409),
        ("not-done", 502),
        ("not-resident", 502),
        ("below-floor", 502),
        ("bad-answer", 502),
        ("internal", 500),
        ("something-new", 502),
    ],
)
def test_the_reason_of_the_end_decides_the_status(
    host: Host, operator: Client, begin: Begin, code: str, status: int
) -> None:
    waiting = begin(operator, '{"model": "qwen2.5:14b"}')
    refuse(until(open_switch), code, "It did not work.")
    response = waiting.result(timeout=PATIENCE_S)
    assert response.status_code == status
    assert ("Retry-After" in response) is (status == 503)
    assert response.json()["detail"] == "Nothing was touched on tower. It did not work."


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ('{"model": "qwen2.5:14b", "wait": false}', {}),
        ('{"model": "qwen2.5:14b"}', {"Prefer": "respond-async, wait=10"}),
    ],
)
def test_a_client_that_does_not_wait_gets_an_address_to_poll(
    host: Host, operator: Client, body: str, headers: dict[str, str]
) -> None:
    response = operator.post(SWITCH, body, "application/json", headers=headers)
    assert response.status_code == 202
    event = response.json()["event"]
    assert response["Location"] == event["url"]
    detail = operator.get(event["url"]).json()
    assert detail["state"] == "queued"
    assert detail["ended"] is False


def test_the_same_idempotency_key_gets_the_same_switch(host: Host, operator: Client) -> None:
    key = {"Idempotency-Key": "5f2c"}
    body = '{"model": "qwen2.5:14b", "wait": false}'
    first = operator.post(SWITCH, body, "application/json", headers=key)
    again = operator.post(SWITCH, body, "application/json", headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["event"] == again.json()["event"]
    row = open_switch()
    assert row is not None
    finish(row)
    later = operator.post(SWITCH, body, "application/json", headers=key)
    assert later.status_code == 200
    assert later.json()["event"]["id"] == row.pk
    assert SwitchEvent.objects.count() == 1


def test_a_second_switch_is_refused_with_the_address_of_the_first(
    host: Host, operator: Client
) -> None:
    operator.post(SWITCH, '{"model": "qwen2.5:14b", "wait": false}', "application/json")
    running = open_switch()
    assert running is not None
    response = operator.post(SWITCH, '{"model": "llama3:8b"}', "application/json")
    assert response.status_code == 409
    body = response.json()
    assert body["type"].endswith(":switch-running")
    assert body["event"] == {"id": running.pk, "url": f"/ollama/switches/{running.pk}"}
    assert body["active"]["model"] == "qwen2.5:7b"
    assert SwitchEvent.objects.count() == 1


def test_a_dry_run_returns_the_plan_and_does_nothing(
    host: Host, operator: Client, ollama: Ollama
) -> None:
    ollama.serve()
    response = operator.post(
        SWITCH, '{"model": "qwen2.5:14b", "dry_run": true}', "application/json"
    )
    assert response.status_code == 200
    plan = response.json()["plan"]
    assert plan["model"] == "qwen2.5:14b"
    assert plan["digest"] == NEW
    assert plan["strategy"] == "overlap"
    assert [i["name"] for i in plan["unload"]] == ["qwen2.5:7b"]
    assert not SwitchEvent.objects.exists()


def test_a_dry_run_for_a_model_that_is_not_there_is_404(
    host: Host, operator: Client, ollama: Ollama
) -> None:
    ollama.serve()
    response = operator.post(SWITCH, '{"model": "nope", "dry_run": true}', "application/json")
    assert response.status_code == 404
    assert "ollama pull nope" in response.json()["detail"]


def test_a_dry_run_says_that_the_published_name_is_taken(
    host: Host, operator: Client, ollama: Ollama
) -> None:
    """The host has a model of that name, which is not Switchboard's."""
    ollama.serve()
    Host.objects.update(published_name="qwen2.5:7b")
    response = operator.post(
        SWITCH, '{"model": "qwen2.5:14b", "dry_run": true}', "application/json"
    )
    assert response.status_code == 200
    plan = response.json()["plan"]
    assert plan["blocked"] == plan["cannot_publish"]
    assert "has a model qwen2.5:7b that is not Switchboard's" in plan["blocked"]


def test_a_dry_run_on_an_unreachable_host_is_503(
    host: Host, operator: Client, ollama: Ollama
) -> None:
    ollama.mock.get(f"{URL}/api/ps", body=requests.ConnectionError("Connection refused"))
    response = operator.post(
        SWITCH, '{"model": "qwen2.5:14b", "dry_run": true}', "application/json"
    )
    assert response.status_code == 503
    assert int(response["Retry-After"]) > 0
    assert response.json()["active"]["model"] == "qwen2.5:7b"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ("model=qwen", 400, "The body is not JSON"),
        ("{" * 200_000, 400, "The body is not JSON"),
        ("[]", 422, "must be a JSON object"),
        ("", 422, "must be a JSON object"),
        ("{}", 422, "Name a model or a profile"),
        ('{"model": 7}', 422, "Field 'model' must be text"),
        ('{"model": "a b"}', 422, "That is not a model name"),
        ('{"model": "a", "wait": "no"}', 422, "Field 'wait' must be true or false"),
        ('{"model": "a", "dry_run": 1}', 422, "Field 'dry_run' must be true or false"),
        ('{"model": "a", "keep_alive": true}', 422, "Field 'keep_alive' must be text or a whole"),
        ('{"model": "a", "keep_alive": "30"}', 422, "30 has no unit. Write 30s"),
        ('{"model": "a", "modle": "b"}', 422, "There is no field 'modle'"),
        ('{"model": "a", "strategy": "fast"}', 422, "The strategy is auto, overlap or swap"),
        ('{"model": "a", "host": "nowhere"}', 404, "There is no host named 'nowhere'"),
        ('{"profile": "nothing"}', 404, "There is no profile named 'nothing'"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(
    host: Host, operator: Client, body: str, status: int, text: str
) -> None:
    response = operator.post(SWITCH, body, "application/json")
    assert response.status_code == status
    assert response["Content-Type"] == "application/problem+json"
    assert text in response.json()["detail"]
    assert not SwitchEvent.objects.exists()


def test_a_profile_and_a_keep_alive_reach_the_record(
    host: Host, profile: ModelProfile, operator: Client
) -> None:
    body = '{"profile": "coder", "keep_alive": -1, "strategy": "swap", "wait": false}'
    assert operator.post(SWITCH, body, "application/json").status_code == 202
    row = SwitchEvent.objects.get()
    assert row.to_spec["keep_alive"] == "forever"
    assert row.to_spec["profile"] == "coder"
    assert row.strategy_asked == "swap"


def test_many_clients_can_wait_for_one_switch(host: Host, operator: Client, begin: Begin) -> None:
    body = '{"model": "qwen2.5:14b"}'
    waiting = [begin(operator, body, **{"Idempotency-Key": "one"}) for _ in range(3)]
    finish(until(open_switch))
    answers = [w.result(timeout=PATIENCE_S) for w in waiting]
    assert [a.status_code for a in answers] == [200, 200, 200]
    assert len({a.json()["event"]["id"] for a in answers}) == 1


def test_a_body_that_is_too_large_is_413(host: Host, operator: Client) -> None:
    body = '{"model": "' + "a" * 3_000_000 + '"}'
    response = operator.post(SWITCH, body, "application/json")
    assert response.status_code == 413
    assert response["Content-Type"] == "application/problem+json"


def test_a_key_that_is_too_long_is_refused_and_not_cut(host: Host, operator: Client) -> None:
    key = {"Idempotency-Key": "k" * 201}
    body = '{"model": "qwen2.5:14b", "wait": false}'
    assert operator.post(SWITCH, body, "application/json", headers=key).status_code == 422
    assert not SwitchEvent.objects.exists()


def test_a_switch_that_cannot_be_recorded_is_refused_with_the_reason(
    operator: Client, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OperationalError("database or disk is full")

    monkeypatch.setattr("switcher.switching.service.switches.open_switch", fail)
    response = operator.post(SWITCH, {"model": "mid-b"}, content_type="application/json")
    assert (response.status_code, response["Retry-After"]) == (503, "10")
    assert "the disk is full" in response.json()["detail"]


def test_a_model_takes_its_only_profile_and_the_answer_names_it(
    host: Host, profile: ModelProfile, operator: Client, ollama: Ollama, begin: Begin
) -> None:
    ollama.serve()
    plan = operator.post(SWITCH, '{"model": "qwen2.5:14b", "dry_run": true}', "text/plain").json()
    assert plan["plan"]["profile"] == "coder"
    waiting = begin(operator, '{"model": "qwen2.5:14b"}')
    finish(until(open_switch))
    assert waiting.result(timeout=PATIENCE_S).json()["profile"] == "coder"


def test_a_profile_of_null_means_none(
    host: Host, profile: ModelProfile, operator: Client, ollama: Ollama, begin: Begin
) -> None:
    ollama.serve()
    body = '{"model": "qwen2.5:14b", "profile": null, "dry_run": true}'
    assert operator.post(SWITCH, body, "text/plain").json()["plan"]["profile"] is None
    waiting = begin(operator, '{"model": "qwen2.5:14b", "profile": null}')
    row = until(open_switch)
    assert (row.to_spec["profile"], row.to_spec["keep_alive"]) == ("", host.keep_alive)
    finish(row)
    assert waiting.result(timeout=PATIENCE_S).json()["profile"] is None


def test_an_accepted_switch_names_its_profile(
    host: Host, profile: ModelProfile, operator: Client
) -> None:
    body = '{"model": "qwen2.5:14b", "wait": false}'
    assert operator.post(SWITCH, body, "text/plain").json()["profile"] == "coder"


def test_a_request_that_names_nothing_is_refused(host: Host, operator: Client) -> None:
    response = operator.post(SWITCH, '{"profile": null}', "text/plain")
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "model")
