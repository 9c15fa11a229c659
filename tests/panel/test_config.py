from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from switcher.domain.drift import Kind
from switcher.models import AuditEntry, Host, ModelProfile
from switcher.records import drifts
from switcher.switching import waking
from tests import make
from tests.make import GB
from tests.panel.conftest import FakeOllama
from tests.panel.test_board import text_of

pytestmark = pytest.mark.django_db

PROFILE = {
    "name": "qwen-chat",
    "tag": "qwen2.5:14b",
    "keep_alive": "30m",
    "options": '{"num_ctx": 8192}',
    "warmups-TOTAL_FORMS": "3",
    "warmups-INITIAL_FORMS": "0",
    "warmups-0-prompt": "Hello",
    "warmups-0-num_predict": "8",
    "warmups-1-prompt": "Count to three",
    "warmups-1-num_predict": "16",
    "warmups-2-prompt": "",
    "warmups-2-num_predict": "8",
    "min_gpu_percent": "90",
    "floor_fails": "on",
}
HOST = {"name": "north-1", "base_url": "http://north-1.test:11434/", "vram_gb": "44.5"}


def test_profile_is_added_with_its_warm_up_prompts(operator: Client) -> None:
    response = operator.post("/profiles/add", PROFILE)
    assert response["Location"] == "/profiles/"
    row = ModelProfile.objects.get()
    assert (row.name, row.options, row.min_gpu_percent) == ("qwen-chat", {"num_ctx": 8192}, 90)
    assert row.warmups == [
        {"prompt": "Hello", "num_predict": 8},
        {"prompt": "Count to three", "num_predict": 16},
    ]
    entry = AuditEntry.objects.get(kind="profile.added")
    assert entry.actor == "olga"


def test_the_form_says_what_runner_options_cost_clients(operator: Client) -> None:
    hint = "and refuses /v1/responses"
    assert hint in html.unescape(text_of(operator.get("/profiles/add")))


def test_another_prompt_is_added_without_script(operator: Client) -> None:
    response = operator.post("/profiles/add", PROFILE | {"add_warmup": "1"})
    page = response.content.decode()
    assert len(re.findall(r'name="warmups-\d-prompt"', page)) == 4
    assert "Count to three" in page
    assert not ModelProfile.objects.exists()


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("name", "Big Name", "Use lower-case letters, digits and hyphens"),
        ("tag", "no model", "for example qwen2.5:14b"),
        ("keep_alive", "30 minuts", "Write 30m."),
        ("options", "num_ctx=1", "Write options as JSON, for example"),
        ("options", '{"num_ctx": "big"}', "Option num_ctx must be a whole number"),
        ("options", '{"num_cxt": 1}', "There is no option"),
        ("warmups-0-num_predict", "0", "between 1 and 512"),
        ("warmups-1-num_predict", "many", "Enter a whole number."),
        ("min_gpu_percent", "101", "less than or equal to 100"),
    ],
)
def test_an_invalid_field_says_what_is_valid(
    operator: Client, field: str, value: Any, error: str
) -> None:
    response = operator.post("/profiles/add", PROFILE | {field: value})
    assert response.status_code == 422
    assert error in text_of(response)
    assert not ModelProfile.objects.exists()


def test_name_that_is_taken_is_an_error_of_its_field(operator: Client) -> None:
    make.profile("phi4:14b", "qwen-chat")
    response = operator.post("/profiles/add", PROFILE)
    assert "There is a profile named qwen-chat already." in text_of(response)


def test_profile_is_changed(operator: Client) -> None:
    make.profile("phi4:14b", "qwen-chat")
    page = operator.get("/profiles/qwen-chat/edit").content.decode()
    assert 'value="phi4:14b"' in page
    operator.post("/profiles/qwen-chat/edit", PROFILE)
    assert ModelProfile.objects.get().tag == "qwen2.5:14b"
    assert AuditEntry.objects.filter(kind="profile.changed").exists()


def test_unused_profile_is_deleted(operator: Client) -> None:
    make.profile("phi4:14b", "phi")
    response = operator.post("/profiles/phi/delete", follow=True)
    assert "Profile phi is deleted." in text_of(response)
    assert not ModelProfile.objects.exists()


def test_profile_in_use_is_not_deleted(operator: Client) -> None:
    make.profile("phi4:14b", "phi")
    make.ended_switch(make.host(), "phi4:14b")
    page = operator.get("/profiles/phi/edit")
    assert "It is in use on north-1." in text_of(page)
    response = operator.post("/profiles/phi/delete", follow=True)
    assert "Nothing was deleted. phi is in use on north-1." in text_of(response)
    assert ModelProfile.objects.exists()


def test_an_auditor_can_read_but_not_change_profiles(auditor: Client) -> None:
    make.profile("phi4:14b", "phi")
    assert "phi4:14b" in text_of(auditor.get("/profiles/"))
    assert auditor.get("/profiles/add").status_code == 403
    assert auditor.post("/profiles/phi/delete").status_code == 403


def test_host_is_added(admin: Client) -> None:
    response = admin.post("/hosts/add", HOST)
    assert response["Location"] == "/hosts/north-1/"
    row = Host.objects.get()
    assert (row.base_url, row.vram_bytes) == ("http://north-1.test:11434", 44_500_000_000)
    assert (row.strategy, row.keep_alive, row.is_default) == ("auto", "30m", True)


def test_parallel_requests_are_set_on_the_form_recorded_and_shown(admin: Client) -> None:
    admin.post("/hosts/add", HOST)
    admin.post("/hosts/north-1/edit", HOST | {"parallel_requests": "4"})
    assert Host.objects.get().parallel_requests == 4
    entry = AuditEntry.objects.get(kind="host.changed")
    assert json.loads(entry.body)["facts"]["after"] == {"parallel_requests": 4}
    assert "Parallel requests 4, as set here" in text_of(admin.get("/hosts/north-1/"))


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("base_url", "ftp://north-1", "Write an address such as http://10.0.0.21:11434."),
        ("base_url", "http://u:p@north-1", "Write the user and the password in their own fields"),
        ("base_url", "http://169.254.43518", "cloud providers keep credentials"),
        ("base_url", "http://10.0.0.21:5432", "another kind of service"),
        ("base_url", "http://north-1:99999", "Write an address such as"),
        ("name", "North 1", "Use lower-case letters"),
        ("vram_gb", "much", "Enter a number"),
        ("parallel_requests", "0", "greater than or equal to 1"),
        ("keep_alive", "30", "30 has no unit. Write 30s"),
    ],
)
def test_an_invalid_host_field_says_what_is_valid(
    admin: Client, field: str, value: str, error: str
) -> None:
    response = admin.post("/hosts/add", HOST | {field: value})
    assert response.status_code == 422
    assert error in text_of(response)
    assert not Host.objects.exists()


def test_address_is_checked_before_it_is_saved(admin: Client, ollama: FakeOllama) -> None:
    ollama.holds(make.resident("llama3.1:8b", 4.0), on_disk=(make.installed("phi4:14b"),))
    whole = text_of(admin.post("/hosts/add", HOST | {"probe": "1"}))
    part = text_of(admin.post("/hosts/probe", HOST, headers={"HX-Request": "true"}))
    for shown in (whole, part):
        assert "Ollama 0.12.6 answers in" in shown
        assert "On its disk: phi4:14b" in shown
        assert "Loaded now: llama3.1:8b , 4 GB, 100 % on GPU" in shown
    assert not Host.objects.exists()


def test_an_address_without_ollama_is_reported(admin: Client, ollama: FakeOllama) -> None:
    shown = text_of(admin.post("/hosts/probe", HOST, headers={"HX-Request": "true"}))
    assert "No Ollama answers there." in shown
    odd = text_of(admin.post("/hosts/probe", {"base_url": "x y"}, headers={"HX-Request": "true"}))
    assert "Write an address such as" in odd


def test_changing_a_host_sets_its_pins_and_keeps_its_active_model(admin: Client) -> None:
    make.profile("embed")
    host = make.host()
    make.ended_switch(host, "phi4:14b")
    values = HOST | {"pins": "1", "pinned": ["embed"], "strategy": "swap", "default": "on"}
    admin.post("/hosts/north-1/edit", values)
    row = Host.objects.get()
    assert (row.strategy, row.active_tag) == ("swap", "phi4:14b")
    assert [p.name for p in row.pinned.all()] == ["embed"]
    page = admin.get("/hosts/north-1/edit").content.decode()
    assert 'value="44.5"' in page


def test_host_is_set_to_repair_its_drift(admin: Client) -> None:
    host = make.host()
    admin.post("/hosts/north-1/edit", HOST | {"drift_policy": "repair", "repairs_an_hour": "5"})
    host.refresh_from_db()
    assert (host.drift_policy, host.repairs_an_hour) == ("repair", 5)
    page = admin.get("/hosts/north-1/edit").content.decode()
    assert '<option value="repair" selected>' in page
    assert "repaired, at most 5 an hour" in text_of(admin.get("/hosts/north-1/"))
    wrong = admin.post("/hosts/north-1/edit", HOST | {"repairs_an_hour": "0"})
    assert "greater than or equal to 1" in text_of(wrong)


def test_host_page_lists_drift_with_evidence_and_its_repair(auditor: Client) -> None:
    host = make.host(seen=make.seen(make.resident("phi4:14b"), at=datetime.now(UTC)))
    row = make.ended_switch(host, "llama3.1:8b", at=make.NOW - timedelta(days=2))
    evidence = {"wanted": {"keep_alive": "30m"}, "before": None, "now": {"resident": ["phi4"]}}
    text = "llama3.1:8b was evicted: <b>at</b> 14:28:07 it was loaded."
    drift = make.drift(host, Kind.EVICTED, "llama3.1:8b", text, evidence=evidence, at=make.NOW)
    drifts.link_repair([drift.pk], row.pk)
    response = auditor.get("/hosts/north-1/")
    shown = text_of(response)
    assert f"Evicted. {text.replace('<b>', '&lt;b&gt;').replace('</b>', '&lt;/b&gt;')}" in shown
    assert f"Being repaired by switch {row.pk}" in shown
    assert "&quot;keep_alive&quot;: &quot;30m&quot;" in response.content.decode()
    assert "Reported; nothing is done about it." in shown
    assert "No drift was seen" not in shown


def test_host_without_drift_says_so(auditor: Client) -> None:
    make.host()
    assert "No drift was seen on north-1." in text_of(auditor.get("/hosts/north-1/"))


def test_host_is_removed_and_its_history_stays(admin: Client) -> None:
    row = make.ended_switch(make.host())
    assert "is removed" in text_of(admin.post("/hosts/north-1/remove", follow=True))
    assert admin.get("/hosts/north-1/").status_code == 404
    assert "north-1 (removed)" in text_of(admin.get(f"/switches/{row.pk}/"))


def test_messages_have_the_style_of_their_state(admin: Client) -> None:
    make.host()
    make.open_switch(make.host("south-1"))
    page = admin.post("/hosts/south-1/remove", follow=True).content.decode()
    assert '<div class="notice" data-state="failed">' in page
    page = admin.post("/hosts/north-1/remove", follow=True).content.decode()
    assert '<div class="notice" data-state="ok">' in page


def test_host_that_switches_is_not_removed(admin: Client) -> None:
    make.open_switch(make.host())
    response = admin.post("/hosts/north-1/remove", follow=True)
    assert "Nothing was removed. north-1 is switching." in text_of(response)


def test_an_operator_cannot_change_hosts(operator: Client) -> None:
    make.host()
    assert operator.get("/hosts/add").status_code == 403
    assert operator.post("/hosts/north-1/remove").status_code == 403
    assert "Only admins can add and change hosts." in text_of(operator.get("/hosts/"))


def test_a_host_is_read_on_request(operator: Client, ollama: FakeOllama) -> None:
    make.host()
    ollama.holds(make.resident("llama3.1:8b", 4.0))
    response = operator.post("/hosts/north-1/check", follow=True)
    shown = text_of(response)
    assert "north-1 answered in" in shown
    assert "llama3.1:8b is loaded" in shown


def test_host_page_shows_all_of_a_host(auditor: Client) -> None:
    at = datetime.now(UTC) - timedelta(minutes=2)
    old = make.seen(make.resident("llama3.1:8b"), at=at)
    make.host(seen=old, vram_bytes=48 * GB)
    make.profile("llama3.1:8b")
    response = auditor.get("/hosts/north-1/")
    shown = text_of(response)
    assert "llama3.1:8b was loaded when it last answered" in shown
    assert "5 of 48 GB in use" in shown
    assert 'data-live-topics="host-north-1"' in response.content.decode()
    assert "Check now" not in shown


def test_a_host_with_a_mac_address_can_be_woken_from_its_page(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets: list[str] = []
    monkeypatch.setattr(waking, "send_wake_packet", packets.append)
    make.host("north-1")
    assert "Wake" not in text_of(admin.get("/hosts/north-1/"))
    Host.objects.update(mac_address="00:1a:2b:3c:4d:5e")
    assert "Wake-on-LAN 00:1a:2b:3c:4d:5e" in text_of(admin.get("/hosts/north-1/"))
    assert "was sent the packet" in text_of(admin.post("/hosts/north-1/wake", follow=True))
    assert packets == ["00:1a:2b:3c:4d:5e"]
