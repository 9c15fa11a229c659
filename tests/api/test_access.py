from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from switcher.models import Host, SwitchEvent

SWITCH = "/ollama/models/switch"
BODY = '{"model": "qwen2.5:14b", "wait": false}'


@pytest.mark.parametrize("path", ["/ollama/models", "/ollama/switches", "/ollama/switches/1"])
def test_reading_needs_a_session(host: Host, client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 401
    assert response["Content-Type"] == "application/problem+json"
    assert "WWW-Authenticate" in response
    assert "/login/" in response.json()["detail"]


def test_switching_needs_a_session_before_anything_else(host: Host, client: Client) -> None:
    assert client.post(SWITCH, "not json", "application/json").status_code == 401


def test_only_staff_may_use_the_api(host: Host, outsider: Client) -> None:
    assert outsider.get("/ollama/switches").status_code == 403
    assert outsider.post(SWITCH, BODY, "application/json").status_code == 403


def test_an_auditor_may_read_but_not_switch(host: Host, auditor: Client) -> None:
    assert auditor.get("/ollama/switches").status_code == 200
    assert auditor.post(SWITCH, BODY, "application/json").status_code == 403
    assert auditor.delete("/ollama/switches/1").status_code == 403
    assert not SwitchEvent.objects.exists()


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://testserver:8000"},
        {"Origin": "https://testserver"},
        {"Origin": "http://testserver.evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_cross_site_request_is_refused(
    host: Host, operator: Client, headers: dict[str, str]
) -> None:
    response = operator.post(SWITCH, BODY, "text/plain", headers=headers)
    assert response.status_code == 403
    assert response.json()["type"].endswith(":foreign")
    assert operator.delete("/ollama/switches/1", headers=headers).status_code == 403
    assert not SwitchEvent.objects.exists()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://TESTSERVER:80"},
    ],
)
def test_our_own_pages_and_other_clients_are_allowed(
    host: Host, operator: Client, headers: dict[str, str]
) -> None:
    assert operator.post(SWITCH, BODY, "text/plain", headers=headers).status_code == 202


def test_a_trusted_origin_is_allowed(host: Host, operator: Client, settings: Any) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://tools.example"]
    headers = {"Origin": "https://tools.example", "Sec-Fetch-Site": "cross-site"}
    assert operator.post(SWITCH, BODY, "text/plain", headers=headers).status_code == 202


def test_every_kind_of_error_has_a_status() -> None:
    import switcher.ollama.errors
    import switcher.switching.effects  # noqa: F401
    from switcher.api.problems import KINDS
    from switcher.domain.errors import SwitcherError

    kinds, found = [SwitcherError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found.add(kind.code)
    assert found - {SwitcherError.code, "ollama"} <= KINDS.keys()
