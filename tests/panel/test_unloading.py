"""The active model unloaded on purpose, from the page, the API and the command, with a simulated
server; and the plan of a model that does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO

import pytest
from django.core.management import call_command
from django.test import Client

from switcher.models import AuditEntry, Host, SwitchEvent
from switcher.records import config
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import run_once
from tests.make import ANNA
from tests.panel.test_board import text_of
from tests.simulated import SimulatedOllama

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def simulator() -> Iterator[SimulatedOllama]:
    with SimulatedOllama("mid-a=4GB", "mid-b=4GB", load_rate="50GB") as made:
        yield made


@pytest.fixture
def host(transactional_db: None, simulator: SimulatedOllama) -> Host:
    row = Host(name="north-1", base_url=simulator.url, vram_bytes=24_000_000_000)
    host = config.save_host(row, ANNA)
    switch, _ = request_switch(SwitchRequest("mid-a"), ANNA)
    assert run_once(switch.pk)
    assert SwitchEvent.objects.get(pk=switch.pk).state == "active"
    return host


def active(host: Host) -> str:
    host.refresh_from_db()
    return host.active_tag


def test_the_page_shows_the_plan_and_unloads(operator: Client, host: Host) -> None:
    page = text_of(operator.get("/hosts/north-1/unload"))
    assert "mid-a:latest leaves north-1" in page
    assert "Unload it" in page
    assert active(host) == "mid-a"
    operator.post("/hosts/north-1/unload", {"reason": "maintenance"})
    assert active(host) == ""
    assert "No model is active on north-1." in text_of(operator.get("/hosts/north-1/unload"))
    entry = AuditEntry.objects.filter(kind="host.unloaded").get()
    assert entry.host == "north-1"


def test_who_may_not_switch_may_not_unload(auditor: Client, host: Host) -> None:
    assert auditor.post("/hosts/north-1/unload").status_code in (302, 403)
    assert active(host) == "mid-a"


def test_the_api_plans_and_unloads(operator: Client, host: Host) -> None:
    def ask(**body: object) -> dict[str, object]:
        found = operator.post("/ollama/models/unload", json.dumps(body), "application/json")
        assert found.status_code == 200, found.content
        answer: dict[str, object] = found.json()
        return answer

    plan = ask(host="north-1", dry_run=True)
    assert (plan["dry_run"], plan["is_gone"], active(host)) == (True, None, "mid-a")
    done = ask(reason="maintenance")
    assert (done["is_gone"], active(host)) == (True, "")
    again = operator.post("/ollama/models/unload", "{}", "application/json")
    assert again.status_code == 409
    assert again.json()["detail"] == "No model is active on north-1."


def test_the_command_plans_and_unloads(host: Host) -> None:
    out = StringIO()
    call_command("unload", "north-1", "--dry-run", stdout=out)
    assert "GB are free again" in out.getvalue()
    assert active(host) == "mid-a"
    call_command("unload", "north-1", "--json", stdout=out)
    assert active(host) == ""


def test_a_plan_that_does_not_fit_proposes_a_context_that_does(
    operator: Client, host: Host
) -> None:
    config.put_host({"vram_bytes": 6_000_000_000}, ANNA, host.pk)
    query = {"host": "north-1", "profile": "=mid-b", "num_ctx": "131072"}
    response = operator.get("/plan", query)
    page = text_of(response)
    assert "tokens of context it lacks" in page
    assert "Plan with" in page
    link = response.content.decode().split("Plan with")[0].rpartition('href="')[2].split('"')[0]
    again = text_of(operator.get(link.replace("&amp;", "&").split("#")[0]))
    assert "tokens of context it lacks" not in again
