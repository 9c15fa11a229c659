"""Each operation answers what the OpenAPI document declares.

The clients of these tests compare every answer with the document, here and in the other files.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from switcher.models import Host, SwitchEvent
from tests.api.conftest import NEW, Ollama, fail, finish, open_switch
from tests.api.declared import differences, document, operation_of, references

SWITCH = "/ollama/models/switch"


def post(client: Client, body: str) -> Any:
    return client.post(SWITCH, body, "application/json")


def ended_switch(client: Client, end: Any, model: str = "qwen2.5:14b") -> SwitchEvent:
    assert post(client, f'{{"model": "{model}", "wait": false}}').status_code == 202
    row = open_switch()
    assert row is not None
    end(row)
    return row


def test_the_document_refers_only_to_what_it_holds() -> None:
    known = {f"#/components/schemas/{name}" for name in document()["components"]["schemas"]}
    assert set(references(document())) <= known
    ids = [o["operationId"] for path in document()["paths"].values() for o in path.values()]
    assert len(ids) == len(set(ids)) == 9


def test_every_declared_answer_has_a_schema() -> None:
    for path in document()["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                assert response["content"], f"{operation['operationId']} {status}"


def test_a_switch_is_declared_from_the_plan_to_the_end(
    host: Host, operator: Client, ollama: Ollama
) -> None:
    ollama.serve()
    assert post(operator, '{"model": "qwen2.5:14b", "dry_run": true}').status_code == 200
    done = ended_switch(operator, finish)
    failed = ended_switch(operator, lambda row: fail(row, "refused", "no"), "qwen2.5:7b")
    for row in (done, failed):
        assert operator.get(f"/ollama/switches/{row.pk}").status_code == 200
    listed = operator.get("/ollama/switches").json()["switches"]
    assert [s["id"] for s in listed] == [failed.pk, done.pk]


def test_the_answers_about_a_switch_that_runs_are_declared(host: Host, operator: Client) -> None:
    url = post(operator, '{"model": "qwen2.5:14b", "wait": false}').json()["event"]["url"]
    assert operator.get(url).json()["phases"] == []
    assert post(operator, '{"model": "llama3:8b"}').status_code == 409
    assert operator.delete(url).status_code == 202


def test_what_a_host_holds_is_declared(host: Host, operator: Client, ollama: Ollama) -> None:
    ollama.serve()
    body = operator.get("/ollama/models").json()
    assert (len(body["resident"]), len(body["installed"])) == (1, 2)


def test_an_invalid_request_names_its_fields(host: Host, operator: Client) -> None:
    errors = post(operator, '{"model": 7, "wait": "no"}').json()["errors"]
    assert [e["field"] for e in errors] == ["model", "wait"]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"digest": 7}, "$.digest: 7 is not of type string"),
        ({"more": 1}, "$: more is not declared"),
        ({"freed": None}, "$.freed: None is not of type boolean"),
    ],
)
def test_a_difference_is_found(change: dict[str, Any], difference: str) -> None:
    """Test the comparison itself."""
    answer = {"freed": True, "host": "tower", "model": "m", "digest": NEW, "bytes": 5} | change
    schema = {"$ref": "#/components/schemas/FreedModel"}
    assert list(differences(document(), schema, answer)) == [difference]


def test_an_address_finds_its_operation() -> None:
    found = operation_of(document(), "delete", "/ollama/switches/7")
    assert found is not None
    assert found["summary"] == "Cancel a switch"
    assert operation_of(document(), "get", "/ollama/nothing") is None
