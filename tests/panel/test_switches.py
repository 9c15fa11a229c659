from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from switcher.domain.states import State
from switcher.models import AuditEntry, FailureSeen
from tests import make
from tests.make import NOW
from tests.panel.test_board import text_of

pytestmark = pytest.mark.django_db


def test_switch_page_shows_the_outcome_and_what_changed(auditor: Client) -> None:
    host = make.host(simulated=True)
    make.ended_switch(host, "llama3.1:8b", at=NOW - timedelta(hours=3))
    row = make.ended_switch(host, before=(make.resident("llama3.1:8b"),))
    shown = text_of(auditor.get(f"/switches/{row.pk}/"))
    assert "qwen2.5:14b is active on north-1." in shown
    assert "Timeline" in shown
    assert "Active model llama3.1:8b qwen2.5:14b" in shown
    assert "anna From web, 192.0.2.14" in shown
    assert "“Better answers”" in shown
    assert "simulated host" in shown
    assert "Earlier on north-1" in shown


def test_a_failed_switch_says_why_what_is_true_and_what_to_do(operator: Client) -> None:
    row = make.ended_switch(make.host(), "gemma2:27b", State.ROLLED_BACK)
    response = operator.get(f"/switches/{row.pk}/")
    shown = text_of(response)
    assert "Ollama answered 500: cudaMalloc failed: out of memory" in shown
    assert "<code>cudaMalloc failed: out of memory</code>" in response.content.decode()
    assert "Restored." in shown
    assert "Plan again" in shown
    assert "Mark as seen" in shown


def test_an_unknown_switch_is_a_friendly_404(operator: Client) -> None:
    response = operator.get("/switches/77/")
    assert response.status_code == 404
    assert "There is no switch 77" in text_of(response)


def test_the_page_of_an_open_switch_is_live(operator: Client) -> None:
    held = make.switch_up_to(make.host(), State.LOADING)
    page = operator.get(f"/switches/{held.id}/").content.decode()
    assert f'data-live-topics="switch-{held.id}"' in page
    assert f'id="switch-{held.id}-rail"' in page


def test_panel_is_a_fragment_with_buttons_for_the_current_user(
    operator: Client, auditor: Client
) -> None:
    held = make.switch_up_to(make.host(), State.LOADING)
    path = f"/switches/{held.id}/panel"
    assert "Cancel this switch" in text_of(operator.get(path))
    page = auditor.get(path)
    assert "Cancel" not in text_of(page)
    assert page.content.decode().lstrip().startswith("<section")


def test_cancel_is_recorded_and_returns_to_the_board(operator: Client) -> None:
    held = make.switch_up_to(make.host(), State.LOADING)
    response = operator.post(f"/switches/{held.id}/cancel")
    assert (response.status_code, response["Location"]) == (302, f"/#switch-{held.id}")
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert (entry.kind, entry.actor) == ("switch.cancel-asked", "olga")


def test_cancel_by_htmx_answers_with_the_panel(operator: Client) -> None:
    held = make.switch_up_to(make.host(), State.LOADING)
    headers = {"HX-Request": "true"}
    response = operator.post(f"/switches/{held.id}/cancel", headers=headers)
    assert "as olga asked" in text_of(response)


def test_cancel_of_an_ended_switch_says_so(operator: Client) -> None:
    row = make.ended_switch(make.host())
    response = operator.post(f"/switches/{row.pk}/cancel", follow=True)
    assert f"Switch {row.pk} has already ended." in text_of(response)


def test_marking_as_seen_records_who_did(operator: Client) -> None:
    row = make.ended_switch(make.host(), end=State.ROLLED_BACK)
    response = operator.post(f"/switches/{row.pk}/seen")
    assert response["Location"] == f"/switches/{row.pk}/"
    assert FailureSeen.objects.get().by == "olga"
    assert "Seen by olga" in text_of(operator.get(response["Location"]))


@pytest.mark.parametrize("action", ["cancel", "seen"])
def test_an_auditor_cannot_act_on_switches(auditor: Client, action: str) -> None:
    row = make.ended_switch(make.host(), end=State.ROLLED_BACK)
    response = auditor.post(f"/switches/{row.pk}/{action}")
    assert response.status_code == 403
    assert "Your account can view this, but not switch." in text_of(response)


def test_switches_are_filtered_by_the_address(auditor: Client) -> None:
    host = make.host()
    make.ended_switch(host, "gemma2:27b", State.ROLLED_BACK, at=NOW - timedelta(hours=4))
    make.ended_switch(host, "qwen2.5:14b")
    shown = text_of(auditor.get("/switches/?outcome=failed&q=gemma&since=2026-11-01"))
    assert "1 switch " in shown
    assert "Failed, restored" in shown
    none = text_of(auditor.get("/switches/?host=north-1&outcome=cancelled"))
    assert "No switches match. 0 of 2. Clear the filter" in none


@pytest.mark.parametrize("query", ["before=x", "since=yesterday", "outcome=odd", "before=-1"])
def test_invalid_filters_are_ignored(auditor: Client, query: str) -> None:
    make.ended_switch(make.host())
    assert "1 switch " in text_of(auditor.get(f"/switches/?{query}"))


def test_filter_by_htmx_answers_with_the_list_alone(auditor: Client) -> None:
    headers = {"HX-Request": "true", "HX-Target": "switch-list"}
    response = auditor.get("/switches/", headers=headers)
    assert response.content.decode().lstrip().startswith('<section class="panel" id="switch-list"')


def test_pages_keep_the_filter(auditor: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr("switcher.queries.switches.PAGE_SIZE", 1)
    host = make.host()
    make.ended_switch(host, "a", at=NOW - timedelta(hours=4))
    last = make.ended_switch(host, "b")
    page = auditor.get("/switches/?host=north-1").content.decode()
    assert f'href="?host=north-1&amp;before={last.pk}"' in page


def test_days_group_the_rows(auditor: Client) -> None:
    host = make.host()
    older = make.ended_switch(host, at=NOW - timedelta(days=1))
    newer = make.ended_switch(host)
    page = auditor.get("/switches/").content.decode()
    rows = [f'id="switch-{row.pk}-go"' for row in (newer, older)]
    order = ["Tue 24 Nov 2026", rows[0], "Mon 23 Nov 2026", rows[1]]
    assert [page.count(text) for text in order] == [1, 1, 1, 1]
    assert sorted(order, key=page.index) == order
