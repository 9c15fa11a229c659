"""What no operation answers is answered with a problem document too."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.test import Client

from switcher.access import AUDITORS
from switcher.models import AuditEntry, Host
from switcher.queries import switches as queries
from tests import make

PROBLEM = "application/problem+json"
SWITCH = "/ollama/models/switch"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", SWITCH, "POST"),
        ("HEAD", SWITCH, "POST"),
        ("DELETE", "/ollama/models", "GET"),
        ("POST", "/ollama/switches", "GET"),
        ("PUT", "/ollama/switches/1", "DELETE, GET"),
        ("POST", "/audit/export", "GET"),
    ],
)
def test_a_wrong_method_is_answered_with_the_right_ones(
    operator: Client, method: str, path: str, allowed: str
) -> None:
    response = operator.generic(method, path)
    assert (response.status_code, response["Allow"]) == (405, allowed)
    assert response["Content-Type"] == PROBLEM
    if method != "HEAD":
        assert response.json()["type"].endswith(":method-not-allowed")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/ollama", "/ollama/", "/ollama/nothing", "/ollama/switches/"])
def test_an_unknown_address_is_a_problem(operator: Client, method: str, path: str) -> None:
    response = operator.generic(method, path)
    assert (response.status_code, response["Content-Type"]) == (404, PROBLEM)
    assert path in response.json()["detail"]


def test_head_is_answered_wherever_get_is(operator: Client, host: Host) -> None:
    for path in ("/ollama/switches", "/health"):
        full, head = operator.get(path), operator.head(path)
        assert (head.status_code, head["Content-Type"]) == (200, full["Content-Type"])
        assert head.content == b""
    assert operator.head("/ollama/switches/4711").status_code == 404


def test_head_exports_nothing(transactional_db: None, client: Client) -> None:
    make.sign_in(client, make.user(role=AUDITORS))
    response = client.head("/audit/export?format=csv")
    assert (response.status_code, response.content) == (200, b"")
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert client.head("/audit/export?format=xml").status_code == 422
    assert not AuditEntry.objects.filter(kind__startswith="audit.exp").exists()


def test_an_unexpected_error_is_a_problem_and_is_logged(
    operator: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a secret of ours")

    monkeypatch.setattr(queries, "switch_detail", fail)
    with caplog.at_level(logging.ERROR):
        response = operator.get("/ollama/switches/1")
    assert (response.status_code, response["Content-Type"]) == (500, PROBLEM)
    assert response.json()["type"].endswith(":internal")
    assert "secret" not in response.content.decode()
    assert "a secret of ours" in caplog.text


def test_an_error_before_an_operation_is_a_problem_too(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    operator.raise_request_exception = False
    monkeypatch.setattr("django.contrib.messages.middleware.default_storage", fail)
    response = operator.get("/ollama/switches/1")
    assert (response.status_code, response["Content-Type"]) == (500, PROBLEM)
    assert operator.get("/hosts/")["Content-Type"].startswith("text/html")


def test_an_unknown_host_name_is_a_problem(operator: Client) -> None:
    response = operator.get("/ollama/switches", headers={"Host": "evil.example"})
    assert (response.status_code, response["Content-Type"]) == (400, PROBLEM)
    assert operator.get("/", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("name", ["\\ud800", "\\u0000", "a\\u0000b"])
@pytest.mark.parametrize("field", ["host", "profile"])
def test_a_name_that_no_database_can_hold_is_not_found(
    operator: Client, host: Host, name: str, field: str
) -> None:
    body = f'{{"model": "qwen2.5:14b", "{field}": "{name}"}}'
    response = operator.post(SWITCH, body, "application/json")
    assert response.status_code == 404
    assert response.json()["detail"].startswith(f"There is no {field} named ")
    assert operator.get("/ollama/models", {"host": "\x00"}).status_code == 404
    assert operator.get("/ollama/switches", {"host": "\x00"}).json()["switches"] == []


def test_such_a_model_name_is_refused_with_a_sentence(operator: Client, host: Host) -> None:
    response = operator.post(SWITCH, '{"model": "\\ud800"}', "application/json")
    assert response.status_code == 422
    assert "not a model name" in response.json()["detail"]


def test_the_description_is_for_those_who_may_use_the_api(client: Client, outsider: Client) -> None:
    response = client.get("/api/openapi.json")
    assert (response.status_code, response["Content-Type"]) == (401, PROBLEM)
    response = client.get("/api/docs")
    assert (response.status_code, response["Location"]) == (302, "/login/?next=/api/docs")
    for path in ("/api/openapi.json", "/api/docs"):
        assert outsider.get(path).status_code == 403
