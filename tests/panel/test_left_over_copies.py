"""Model copies that another tool or an earlier data directory left: adopted if their content is the
one to keep, listed, and removed by one act, from the page and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO

import pytest
from django.core.management import call_command
from django.test import Client

from switcher.models import AuditEntry, Host, ModelCopy
from switcher.records import config
from switcher.switching.copy_cleanup import clean_up_copies
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import run_once
from switcher.watching.loop import check_now
from tests.make import ANNA
from tests.panel.test_board import text_of
from tests.simulated import SimulatedOllama

pytestmark = pytest.mark.django_db(transaction=True)
LEFT_A = "switchboard-holds/their-a:1234"
LEFT_B = "switchboard-holds/their-b:5678"


@pytest.fixture
def ollama() -> Iterator[SimulatedOllama]:
    with SimulatedOllama("mid-a=4GB", "mid-b=4GB", load_rate="50GB") as made:
        for source, copy in (("mid-a", LEFT_A), ("mid-b", LEFT_B)):
            made.post("/api/copy", source=source, destination=copy)
        yield made


@pytest.fixture
def host(transactional_db: None, ollama: SimulatedOllama) -> Host:
    return config.save_host(Host(name="north-1", base_url=ollama.url), ANNA)


def switch(tag: str) -> None:
    row, _ = request_switch(SwitchRequest(tag), ANNA)
    assert run_once(row.pk)
    row.refresh_from_db()
    assert (row.state, row.warnings) == ("active", [])


def copies(ollama: SimulatedOllama) -> set[str]:
    return {name for name in ollama.installed() if name.startswith("switchboard-holds/")}


def remove() -> str:
    out = StringIO()
    call_command("hosts", "copies", "north-1", "--remove", stdout=out)
    return out.getvalue()


def test_a_switch_adopts_a_copy_of_its_model(host: Host, ollama: SimulatedOllama) -> None:
    switch("mid-a")
    assert [copy.name for copy in ModelCopy.objects.all()] == [LEFT_A]
    switch("mid-b")
    assert copies(ollama) == {LEFT_B}, "the adopted one was removed like any other"


def test_the_clean_up_adopts_a_copy_of_a_desired_model(host: Host, ollama: SimulatedOllama) -> None:
    switch("mid-a")
    ModelCopy.objects.all().delete()
    check_now(host.pk, host.server)
    before = ollama.writes()
    clean_up_copies(host.pk)
    assert [copy.name for copy in ModelCopy.objects.all()] == [LEFT_A]
    assert ollama.writes() == before


def test_the_command_lists_and_removes_them(host: Host, ollama: SimulatedOllama) -> None:
    switch("mid-a")
    out = StringIO()
    call_command("hosts", "copies", "north-1", "--json", stdout=out)
    digest = ollama.installed()["mid-b"]
    assert json.loads(out.getvalue()) == [{"name": LEFT_B, "digest": digest}]
    assert remove() == "1 left-over copy removed.\n"
    assert copies(ollama) == {LEFT_A}, "the one that is recorded stays"
    entry = AuditEntry.objects.get(kind="handle.dropped")
    assert (entry.host, LEFT_B in str(entry.facts)) == ("north-1", True)
    assert remove() == "north-1 holds no copies that others have left.\n"


def test_the_last_name_of_a_loaded_model_stays(host: Host, ollama: SimulatedOllama) -> None:
    ollama.load("mid-b")
    ollama.delete("mid-b")
    text = remove()
    assert text.startswith("1 left-over copy removed. ")
    assert f"{LEFT_B} stayed: no other name reaches the loaded model." in text
    assert copies(ollama) == {LEFT_B}


def test_the_page_lists_and_removes_them(
    operator: Client, host: Host, ollama: SimulatedOllama
) -> None:
    switch("mid-a")
    check_now(host.pk, host.server)
    page = text_of(operator.get("/hosts/north-1/"))
    assert "1 model copy that this Switchboard has not made" in page
    assert LEFT_B in page
    assert LEFT_A not in page
    answer = operator.post("/hosts/north-1/copies/remove", follow=True)
    assert "1 left-over copy removed." in text_of(answer)
    assert copies(ollama) == {LEFT_A}
    assert "has not made" not in text_of(operator.get("/hosts/north-1/"))


def test_who_may_not_switch_may_not_remove_them(
    auditor: Client, host: Host, ollama: SimulatedOllama
) -> None:
    assert auditor.post("/hosts/north-1/copies/remove").status_code in (302, 403)
    assert copies(ollama) == {LEFT_A, LEFT_B}
