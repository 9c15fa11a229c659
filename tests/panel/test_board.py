from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from switcher.domain.states import State
from switcher.models import SwitchEvent
from switcher.records import config
from tests import make
from tests.clocks import FakeClock
from tests.panel.conftest import FakeOllama

pytestmark = pytest.mark.django_db

LLAMA = make.resident("llama3.1:8b", 4.0)
QWEN = make.installed("qwen2.5:14b", 9.0)
DISK = (make.installed("llama3.1:8b", 4.0), QWEN)


@pytest.fixture
def north(ollama: FakeOllama) -> Any:
    """Return a host with llama3.1:8b resident, and profiles of it and of qwen2.5:14b."""
    host = make.host(seen=make.seen(LLAMA, on_disk=DISK, at=datetime.now(UTC)))
    make.profile("llama3.1:8b")
    make.profile("qwen2.5:14b")
    make.ended_switch(host, "llama3.1:8b")
    ollama.holds(LLAMA, on_disk=DISK)
    return host


def text_of(response: Any) -> str:
    """Return the visible text of a page in one line."""
    words = re.sub(r"<title>.*?</title>|<[^>]+>", " ", response.content.decode())
    return " ".join(words.replace("\u00a0", " ").replace("&nbsp;", " ").split())


def token_of(response: Any) -> str:
    found = re.search(r'name="plan" value="(p-\w+)"', response.content.decode())
    assert found, "the page shows no plan"
    return found.group(1)


def test_board_takes_at_most_six_queries(operator: Client, north: Any) -> None:
    make.switch_up_to(north, State.LOADING, clock=FakeClock(datetime.now(UTC)))
    operator.get("/")
    with CaptureQueriesContext(
        connection,
    ) as queries:
        response = operator.get("/")
    assert response.status_code == 200
    assert len(queries) <= 6, [q["sql"][:80] for q in queries.captured_queries]


def test_board_shows_hosts_and_switches(operator: Client, north: Any) -> None:
    response = operator.get("/")
    shown = text_of(response)
    assert "1 of 1 host answers. Nothing needs attention." in shown
    assert "4 of 24 GB" in shown
    assert "llama3.1:8b active after" in shown
    assert 'data-live-topics="board"' in response.content.decode()
    assert "HX-Request" in response.headers["Vary"]


def test_pages_hold_no_inline_script_or_style(admin: Client, north: Any) -> None:
    event = SwitchEvent.objects.get()
    for path in ("/", "/plan?host=north-1", "/hosts/", "/hosts/north-1/", "/hosts/add",
                 "/hosts/north-1/edit", "/profiles/", "/profiles/add", "/switches/",
                 f"/switches/{event.pk}/", "/login/", "/nothing-here"):  # fmt: skip
        page = admin.get(path).content.decode()
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page), path


def test_anonymous_users_sign_in_and_come_back(client: Client) -> None:
    response = client.get("/switches/?host=north-1")
    assert response.status_code == 302
    assert response["Location"] == "/login/?next=/switches/%3Fhost%3Dnorth-1"


def test_a_fragment_sends_anonymous_users_to_sign_in(client: Client) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/"}
    response = client.get("/plan?host=north-1", headers=headers)
    assert response["HX-Redirect"].startswith("/login/?next=")


def test_users_who_are_not_staff_are_refused(sign_in: Callable[..., Client]) -> None:
    response = sign_in("", "nobody").get("/")
    assert response.status_code == 403
    assert "This page is for staff." in text_of(response)


def test_first_run_shows_how_to_add_a_host(admin: Client) -> None:
    shown = text_of(admin.get("/"))
    assert "Add your first host" in shown
    assert "switchboard simulator" in shown


def test_plan_is_on_the_page_without_script(operator: Client, north: Any) -> None:
    response = operator.get("/plan", {"host": "north-1", "profile": "qwen2-5-14b"})
    shown = text_of(response)
    assert "Load qwen2.5:14b" in shown
    assert "Unload llama3.1:8b" in shown
    assert "fit beside what is loaded" in shown
    assert "Switch north-1 to qwen2.5:14b" in shown
    assert "<h1>Board</h1>" in response.content.decode()


def test_plan_for_htmx_is_the_fragment_alone(operator: Client, north: Any) -> None:
    query = {"host": "north-1", "profile": "qwen2-5-14b"}
    response = operator.get("/plan", query, headers={"HX-Request": "true"})
    page = response.content.decode()
    assert page.lstrip().startswith('<div id="plan"')
    assert "<html" not in page


def test_plan_of_a_model_without_profile(operator: Client, north: Any, ollama: FakeOllama) -> None:
    ollama.holds(LLAMA, on_disk=(*DISK, make.installed("phi4:14b")))
    response = operator.get("/plan", {"host": "north-1", "profile": "=phi4:14b"})
    assert "Switch north-1 to phi4:14b" in text_of(response)


def test_form_token_does_not_stay_in_the_address(operator: Client, north: Any) -> None:
    query = {"host": "north-1", "csrfmiddlewaretoken": "secret", "plan": "p-1"}
    response = operator.get("/plan", query)
    assert (response.status_code, response["Location"]) == (302, "/plan?host=north-1")


def test_enter_refreshes_the_plan_and_never_switches(operator: Client, north: Any) -> None:
    page = operator.get("/plan?host=north-1&profile=qwen2-5-14b").content.decode()
    form = page[page.index('id="quick-switch-body"') :]
    first = re.search(r'<button[^>]*type="submit"[^>]*>([^<]*)', form)
    assert first is not None
    assert first.group(1).strip() == "Refresh plan"


def test_switch_runs_the_plan_that_was_shown(operator: Client, north: Any) -> None:
    wish = {"host": "north-1", "profile": "qwen2-5-14b", "reason": "Better answers"}
    token = token_of(operator.get("/plan", wish))
    response = operator.post("/switch", wish | {"plan": token})
    row = SwitchEvent.objects.first()
    assert row is not None
    assert (response.status_code, response["Location"]) == (302, f"/#switch-{row.pk}")
    assert (row.actor, row.source, row.reason) == ("olga", "page", "Better answers")
    assert (row.to_tag, row.plan_token, row.state) == ("qwen2.5:14b", token, "queued")


def test_switch_by_htmx_answers_with_the_panels(operator: Client, north: Any) -> None:
    wish = {"host": "north-1", "profile": "qwen2-5-14b"}
    token = token_of(operator.get("/plan", wish))
    headers = {"HX-Request": "true"}
    response = operator.post("/switch", wish | {"plan": token}, headers=headers)
    row = SwitchEvent.objects.first()
    assert row is not None
    assert f'id="switch-{row.pk}"' in response.content.decode()
    assert f"switch-{row.pk}-h" in response["HX-Trigger-After-Swap"]


def test_second_click_gets_the_switch_of_the_first(operator: Client, north: Any) -> None:
    wish = {"host": "north-1", "profile": "qwen2-5-14b"}
    wish["plan"] = token_of(operator.get("/plan", wish))
    first, second = operator.post("/switch", wish), operator.post("/switch", wish)
    assert first["Location"] == second["Location"]
    assert SwitchEvent.objects.filter(state="queued").count() == 1


def test_changed_host_switches_nothing_and_shows_a_new_plan(
    operator: Client, north: Any, ollama: FakeOllama
) -> None:
    wish = {"host": "north-1", "profile": "qwen2-5-14b"}
    token = token_of(operator.get("/plan", wish))
    ollama.holds(on_disk=DISK)
    response = operator.post("/switch", wish | {"plan": token})
    assert response.status_code == 409
    shown = text_of(response)
    assert "Nothing was switched. north-1 changed after the plan was made." in shown
    assert token_of(response) != token
    assert not SwitchEvent.objects.filter(state="queued").exists()


def test_changed_host_by_htmx_replaces_the_plan(
    operator: Client, north: Any, ollama: FakeOllama
) -> None:
    wish = {"host": "north-1", "profile": "qwen2-5-14b"}
    token = token_of(operator.get("/plan", wish))
    ollama.holds(on_disk=DISK)
    response = operator.post("/switch", wish | {"plan": token}, headers={"HX-Request": "true"})
    assert (response.status_code, response["HX-Retarget"]) == (200, "#plan")
    assert "Nothing was switched." in text_of(response)


def test_switch_without_a_plan_is_refused(operator: Client, north: Any) -> None:
    response = operator.post("/switch", {"host": "north-1", "profile": "qwen2-5-14b"})
    assert response.status_code == 400
    assert "Read the plan first" in text_of(response)


def test_a_conflict_names_who_switches_and_links_there(operator: Client, north: Any) -> None:
    wish = {"host": "north-1", "profile": "qwen2-5-14b"}
    token = token_of(operator.get("/plan", wish))
    other = make.open_switch(north, "phi4:14b", clock=FakeClock(datetime.now(UTC)))
    response = operator.post("/switch", wish | {"plan": token})
    assert response.status_code == 409
    assert "north-1 is already switching to phi4:14b, started by anna" in text_of(response)
    assert f'href="/#switch-{other.pk}"' in response.content.decode()


def test_a_running_switch_explains_more_than_a_changed_host(
    operator: Client, north: Any, ollama: FakeOllama
) -> None:
    wish = {"host": "north-1", "profile": "qwen2-5-14b"}
    token = token_of(operator.get("/plan", wish))
    make.open_switch(north, "phi4:14b", clock=FakeClock(datetime.now(UTC)))
    ollama.holds(on_disk=DISK)
    response = operator.post("/switch", wish | {"plan": token})
    assert response.status_code == 409
    assert "north-1 is already switching to phi4:14b, started by anna" in text_of(response)


def test_the_button_of_a_blocked_plan_says_why_it_is_blocked(operator: Client, north: Any) -> None:
    make.profile("gemma2:27b")
    response = operator.get("/plan", {"host": "north-1", "profile": "gemma2-27b"})
    page = response.content.decode()
    button = re.search(r'<button[^>]*id="plan-go"[^>]*>', page)
    assert button is not None
    assert 'aria-disabled="true"' in button.group()
    assert 'type="button"' in button.group()
    assert "gemma2:27b is not on north-1. Pull it there first" in text_of(response)


def test_plan_says_before_the_click_that_the_published_name_is_taken(
    operator: Client, north: Any, ollama: FakeOllama
) -> None:
    ollama.holds(LLAMA, on_disk=(*DISK, make.installed("active:latest")))
    config.put_host({"published_name": "active:latest"}, make.ANNA, north.pk)
    shown = text_of(operator.get("/plan", {"host": "north-1", "profile": "qwen2-5-14b"}))
    assert "north-1 has a model active that is not Switchboard" in shown
    assert "Choose another published name, or remove that model." in shown
    assert "then point active at it" not in shown
    assert "Unpin" not in shown


def test_host_that_does_not_answer_is_a_state_of_the_plan(
    operator: Client, north: Any, ollama: FakeOllama
) -> None:
    ollama.mocked.reset()
    response = operator.get("/plan", {"host": "north-1", "profile": "qwen2-5-14b"})
    assert response.status_code == 200
    assert "The host does not answer." in text_of(response)


def test_an_invalid_keep_alive_is_explained_in_the_plan(operator: Client, north: Any) -> None:
    query = {"host": "north-1", "profile": "qwen2-5-14b", "keep_alive": "30"}
    assert "30 has no unit. Write 30s for seconds" in text_of(operator.get("/plan", query))


def test_auditor_sees_the_plan_but_no_action(auditor: Client, north: Any) -> None:
    make.switch_up_to(north, State.LOADING, clock=FakeClock(datetime.now(UTC)))
    response = auditor.get("/plan", {"host": "north-1", "profile": "qwen2-5-14b"})
    shown = text_of(response)
    assert "Your account can view this, but not switch." in shown
    assert "Cancel" not in shown
    assert auditor.post("/switch", {"host": "north-1"}).status_code == 403


def test_posts_need_their_token(sign_in: Callable[..., Client], north: Any) -> None:
    client = sign_in("operators", "carl", enforce_csrf_checks=True)
    response = client.post("/switch", {"host": "north-1"})
    assert response.status_code == 403
    assert "This form is out of date" in text_of(response)


def test_times_are_shown_without_script(operator: Client, north: Any) -> None:
    clock = FakeClock(datetime.now(UTC) - timedelta(seconds=8))
    make.switch_up_to(north, State.LOADING, clock=clock)
    page = operator.get("/").content.decode()
    assert re.search(r"<time data-elapsed datetime=\"[^\"]+\">\d+\u00a0s</time> elapsed", page)
