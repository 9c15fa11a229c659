"""The pages of the trail: what they say, whom they let in, and what they do not let through."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse

from switcher import records
from switcher.access import OPERATORS
from switcher.audit import checkpoints, reviews
from switcher.audit.entries import PAGE
from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.audit.point_in_time import HostAt
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verifier.switchboard_verify import Note, fold, leaf
from switcher.domain.states import State
from switcher.models import AuditEntry, LedgerRow, Origin, Review
from switcher.records import Actor, config
from tests import make
from tests.audit.conftest import ANNA, BEN, numbers, tell, tell_at, tell_many
from tests.panel.test_board import text_of

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

AREAS = ("switch", "host", "profile", "policy", "drift", "repair", "user", "group", "login", "key",
         "audit", "server")  # fmt: skip


# -- The list


def test_pages_go_back_and_forth_while_entries_are_appended(auditor: Client) -> None:
    tell_many(2 * PAGE + 20)
    first = numbers(auditor, "/audit/")
    assert first == list(range(2 * PAGE + 20, PAGE + 20, -1))
    tell_many(3)
    second = numbers(auditor, f"/audit/?before={first[-1]}")
    assert second == list(range(PAGE + 20, 20, -1))
    assert numbers(auditor, f"/audit/?before={second[-1]}") == list(range(20, 0, -1))
    assert numbers(auditor, f"/audit/?after={second[0]}") == first
    # Going to newer ones ends on a page that is full.
    assert numbers(auditor, f"/audit/?after={first[0]}")[0] == 2 * PAGE + 23


def test_the_address_holds_the_filter_and_the_form_shows_it(auditor: Client) -> None:
    tell(host="north-1", reason="nightly run")
    tell(host="south-1", reason="nightly run")
    tell(actor=BEN, host="north-1", reason="nightly run")
    path = "/audit/?host=north-1&actor=anna&kind=configuration&text=nightly&since=2020-01-01"
    response = auditor.get(path)
    assert [row.seq for row in response.context["page"].rows] == [1]
    html = " ".join(response.content.decode().split())
    assert '<option value="north-1" selected>north-1</option>' in html
    assert 'name="actor" value="anna"' in html
    assert '<option value="configuration" selected>' in html
    assert 'name="since" type="datetime-local" value="2020-01-01T00:00"' in html


def test_links_to_other_pages_keep_the_filter(auditor: Client) -> None:
    tell_many(PAGE + 1, host="north-1")
    html = auditor.get("/audit/?host=north-1").content.decode()
    assert 'id="older" href="?host=north-1&amp;before=2"' in html


def test_htmx_gets_the_list_alone(auditor: Client) -> None:
    tell()
    html = auditor.get("/audit/", headers={"HX-Request": "true", "HX-Target": "audit-list"})
    assert html.content.decode().lstrip().startswith('<section class="panel" id="audit-list"')


def test_a_field_that_cannot_be_read_is_marked_and_counts_as_any(auditor: Client) -> None:
    tell()
    response = auditor.get("/audit/?since=soon&before=x&after=-1")
    html = response.content.decode()
    assert [row.seq for row in response.context["page"].rows] == [1]
    assert 'aria-describedby="q-since-error"' in html
    assert "Write a time as 2026-11-24" in html


def test_an_empty_list_says_why(auditor: Client) -> None:
    assert "No entry yet" in auditor.get("/audit/").content.decode()
    tell()
    assert "No entries match" in auditor.get("/audit/?host=nowhere").content.decode()
    assert "Show the newest" in auditor.get("/audit/?before=1").content.decode()


def test_there_is_nothing_to_export_or_to_page_where_nothing_was_found(auditor: Client) -> None:
    tell()
    for path, there in (("/audit/", True), ("/audit/?host=nowhere", False)):
        html = auditor.get(path).content.decode()
        assert ('id="export-csv"' in html) is there
        assert ('class="pager"' in html) is there


def test_lines_tell_in_words_what_happened(auditor: Client, proofs: KeyFiles) -> None:
    host = make.host("north-1")
    make.profile("qwen2.5:14b")
    make.ended_switch(host, "qwen2.5:14b")
    config.put_host({"keep_alive": "2h"}, ANNA, host.pk)
    tell("something.new-here")
    sentences = [row.description for row in auditor.get("/audit/").context["page"].rows]
    assert sentences[:2] == [
        "Something: new here.",
        "Changed host north-1: keep alive 30m → 2h.",
    ]
    assert "qwen2.5:14b is active on north-1." in sentences
    assert "qwen2.5:14b became the active model of north-1." in sentences
    assert "Asked north-1 to switch to qwen2.5:14b." in sentences


def test_every_kind_of_the_product_is_told_in_a_sentence_of_its_own() -> None:
    from switcher.audit.entry_descriptions import describe

    facts = {"model": "mid-a", "before": {"a": 1}, "after": {"a": 2}, "profile": "p"}
    for state in State:
        text = describe(f"switch.{state.value}", "north-1", facts)
        assert "mid-a" in text or "north-1" in text
        assert not text.startswith("Switch:")
    written = {
        kind
        for path in Path(records.__file__).parent.glob("*.py")
        for kind in re.findall(rf'"((?:{"|".join(AREAS)})\.[a-z-]+)"', path.read_text())
    }
    assert len(written) > 20
    for kind in written:
        by_name = f"{kind.partition('.')[0].capitalize()}: "
        assert not describe(kind, "north-1", facts).startswith(by_name), kind


def test_drift_and_keys_are_told_with_what_matters(auditor: Client) -> None:
    tell("drift.seen", host="north-1", drift="evicted", model="mid-a", text="mid-a was evicted.")
    tell("drift.ended", host="north-1", drift="evicted", model="mid-a", ending="It is back.")
    tell("key.made", name="ci", prefix="sb-1234", manage=True, may_switch=True)
    lines = auditor.get("/audit/").context["page"].rows
    assert [line.description for line in lines] == [
        "Made the key ci (sb-1234…), which may manage models and switch models.",
        "Drift on north-1 ended (evicted mid-a): It is back.",
        "On north-1: mid-a was evicted.",
    ]
    assert [line.status_style for line in lines] == ["", "", "warning"]


HUGE = 10**40


@pytest.mark.parametrize("name", ["host", "model", "actor", "kind", "text", "before", "since"])
@pytest.mark.parametrize("value", ["a%00b", "%ED%A0%80", f"{HUGE}", "-1", "%25%27%22"])
def test_nonsense_in_an_address_breaks_no_page(auditor: Client, name: str, value: str) -> None:
    tell(host="north-1", reason="because")
    assert auditor.get(f"/audit/?{name}={value}").status_code == 200


@pytest.mark.parametrize(
    "path", ["people/a%00b/", "hosts/a%00b/", f"{HUGE}/", f"{HUGE}/proof.json"]
)
def test_what_cannot_exist_is_not_found(auditor: Client, path: str) -> None:
    assert auditor.get(f"/audit/{path}").status_code == 404


def test_what_people_write_stays_text(auditor: Client) -> None:
    evil = '<script>alert(1)</script>"&'
    seq = tell(actor=Actor(evil, "page"), host=evil, reason=evil, model=evil).seq
    for path in ("/audit/", f"/audit/{seq}/", "/audit/?text=script", f"/audit/?actor={evil}"):
        html = auditor.get(path).content.decode()
        assert "<script>alert" not in html
        assert "&lt;script&gt;" in html


def test_names_that_are_no_good_addresses_break_no_page(auditor: Client) -> None:
    for name in ("", "a/b", "a\nb", "%00", "?x#y", ".."):
        tell(actor=Actor(name, "page"), host=name)
    assert len(numbers(auditor, "/audit/")) == 6
    assert numbers(auditor, "/audit/people/a/b/") == [2]
    assert numbers(auditor, "/audit/hosts/%3Fx%23y/") == [5]
    assert auditor.get("/audit/3/").status_code == 200


# -- One entry


def test_an_entry_shows_its_exact_text_and_where_it_came_from(auditor: Client) -> None:
    seq = tell(actor=ANNA, reason="“why” & how", host="north-1").seq
    response = auditor.get(f"/audit/{seq}/")
    entry = response.context["detail"]
    assert entry.body == LedgerRow.objects.get(pk=seq).body
    assert (entry.origin.ip, entry.origin.agent) == ("192.0.2.14", "Firefox")
    assert entry.origin.attested is True
    html = response.content.decode()
    assert "192.0.2.14" in html
    assert "not signed yet" in html
    assert auditor.get("/audit/99/").status_code == 404
    assert auditor.get(f"/audit/{seq}/proof.json").status_code == 404


def test_erased_data_are_told_as_erased_and_edited_ones_as_false(auditor: Client) -> None:
    seq = tell(actor=ANNA).seq
    Origin.objects.update(ip="203.0.113.9")
    assert "does not match the hash in the entry" in auditor.get(f"/audit/{seq}/").content.decode()
    Origin.objects.update(ip=None, agent="", salt=b"", erased_at=make.NOW)
    html = auditor.get(f"/audit/{seq}/").content.decode()
    assert "address and browser erased on Tue 24 Nov 2026" in html


def test_the_proof_checks_out_and_comes_as_json(auditor: Client, proofs: KeyFiles) -> None:
    seqs = tell_many(20)
    checkpoints.sign()
    html = auditor.get(f"/audit/{seqs[4]}/").content.decode()
    assert "The proof checks out." in html
    told = json.loads(auditor.get(f"/audit/{seqs[4]}/proof.json").content)
    entry, note = told["entry"], Note.parse(told["checkpoint"]["note"])
    made = leaf(bytes.fromhex(entry["prev"]), entry["body"])
    hashes = [bytes.fromhex(text) for text in entry["proof"]]
    assert fold(made, entry["seq"] - 1, note.size, hashes) == note.root
    note.signer(proofs.public_keys())


def test_a_changed_entry_is_called_changed(auditor: Client, proofs: KeyFiles) -> None:
    seq = tell_many(5)[2]
    checkpoints.sign()
    drop_triggers()
    LedgerRow.objects.filter(pk=seq).update(body=LedgerRow.objects.get(pk=seq).body + " ")
    make_triggers()
    html = auditor.get(f"/audit/{seq}/").content.decode()
    assert "The hash does not match this text." in html
    assert "The proof does not check out." in html


def test_columns_that_were_forged_are_named_above_the_true_text(auditor: Client) -> None:
    seq = tell_many(3)[1]
    said = "What is shown here is not what was written:"
    assert said not in auditor.get(f"/audit/{seq}/").content.decode()
    AuditEntry.objects.filter(pk=seq).update(actor="mallory", kind="profile.changed")
    html = auditor.get(f"/audit/{seq}/").content.decode()
    assert f"{said}</strong> kind, who." in html
    assert "&quot;actor&quot;:&quot;anna&quot;" in html


@pytest.mark.parametrize(
    "address",
    [
        "/audit/?until=9999-12-31T23:59",
        "/audit/?since=9999-12-31T23:59&until=0001-01-01",
        "/audit/when/?at=9999-12-31T23:59",
        *(f"/audit/?{name}=a%00b" for name in ("host", "model", "actor", "kind", "text", "since")),
        "/audit/people/a%00b/",
        "/audit/hosts/a%00b/",
        "/audit/erase/a%00b/",
    ],
)
def test_no_address_breaks_a_page(admin: Client, address: str) -> None:
    tell_many(2)
    assert admin.get(address).status_code in {200, 404, 422}


# -- People and hosts


def test_a_persons_history_is_theirs_alone(auditor: Client) -> None:
    make.ended_switch(make.host("north-1"))
    tell(actor=BEN)
    response = auditor.get("/audit/people/anna/?actor=ben")
    assert {row.actor for row in response.context["page"].rows} == {"anna"}
    assert dict(response.context["history"].ended) == {"Active": 1}
    assert "1 active" in response.content.decode()
    assert auditor.get("/audit/people/nobody/").status_code == 404


def test_a_removed_host_keeps_its_history(auditor: Client) -> None:
    host = make.host("north-1")
    config.remove_host(host.pk, ANNA)
    response = auditor.get("/audit/hosts/north-1/")
    assert [row.kind for row in response.context["page"].rows][-1] == "host.added"
    assert "History of north-1" in response.content.decode()


# -- When


def then(client: Client, minutes: float) -> dict[str, HostAt]:
    at = (make.NOW + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%S")
    response = client.get("/audit/when/", {"at": at})
    assert response.status_code == 200
    return {h.host: h for h in response.context["hosts"]}


def at(minutes: float, kind: str, host: str = "north-1", **facts: object) -> int:
    return tell_at(make.NOW + timedelta(minutes=minutes), kind, host=host, **facts)


def test_which_model_was_active_at_a_moment_with_the_entry_that_says_so(auditor: Client) -> None:
    at(0, "host.added")
    first = at(10, "host.activated", model="mid-a")
    at(20, "host.activated", model="mid-b", previous="mid-a")
    assert then(auditor, -1) == {}
    assert then(auditor, 5)["north-1"].model == ""
    assert then(auditor, 9.9)["north-1"].model == ""
    found = then(auditor, 15)["north-1"]
    assert (found.model, [line.seq for line in found.proofs]) == ("mid-a", [first])
    assert then(auditor, 20)["north-1"].model == "mid-b"
    html = auditor.get("/audit/when/?at=2026-11-24T14:45").content.decode()
    assert f'href="/audit/{first}/"' in html


def test_trouble_is_told_until_a_switch_has_mended_it(auditor: Client) -> None:
    at(0, "host.activated", model="mid-a")
    at(10, "switch.queued", model="mid-b")
    at(11, "switch.loading", model="mid-b")
    at(12, "switch.failed", model="mid-b", degraded=True, outcome="north-1 holds nothing.")
    at(20, "switch.queued", model="mid-a")
    at(21, "switch.rolled_back", model="mid-a", restored="mid-a", outcome="Rolled back.")
    at(30, "host.activated", model="mid-b")
    at(30, "switch.active", model="mid-b", outcome="mid-b is active.")
    assert then(auditor, 11.5)["north-1"].under_way == "A switch to mid-b was under way: loading."
    broken = then(auditor, 15)["north-1"]
    assert (broken.model, broken.trouble) == ("mid-a", "north-1 holds nothing.")
    assert broken.under_way == ""
    still = then(auditor, 20.5)["north-1"]
    assert (still.trouble, still.under_way != "") == ("north-1 holds nothing.", True)
    mended = then(auditor, 25)["north-1"]
    assert (mended.model, mended.trouble, mended.tried) == ("mid-a", "", "Rolled back.")
    fine = then(auditor, 40)["north-1"]
    assert (fine.model, fine.trouble, fine.under_way, fine.tried) == ("mid-b", "", "", "")


def test_a_removed_host_is_told_as_removed_and_its_heir_begins_anew(auditor: Client) -> None:
    at(0, "host.added")
    at(1, "host.activated", model="mid-a")
    at(10, "host.removed")
    at(20, "host.added")
    assert then(auditor, 5)["north-1"].removed_at is None
    gone = then(auditor, 15)["north-1"]
    assert (gone.removed_at is not None, gone.model) == (True, "mid-a")
    heir = then(auditor, 25)["north-1"]
    assert (heir.removed_at, heir.model) == (None, "")


def test_a_real_switch_is_told_as_it_was(auditor: Client) -> None:
    host = make.host("north-1")
    make.ended_switch(host, "qwen2.5:14b", at=make.NOW)
    make.ended_switch(host, "big:70b", State.ROLLED_BACK, at=make.NOW + timedelta(minutes=5))
    found = then(auditor, 10)["north-1"]
    assert (found.model, found.trouble) == ("qwen2.5:14b", "")
    assert found.tried == "big:70b did not become active. The old model is active again."


def test_a_moment_that_cannot_be_read_is_said_under_the_field(auditor: Client) -> None:
    response = auditor.get("/audit/when/?at=noon")
    assert response.status_code == 422
    assert "Write a time as" in response.content.decode()


# -- Reviewing, and who may


def test_selected_entries_are_marked_at_once_with_a_note(auditor: Client) -> None:
    first, second, third = tell_many(3)
    form = {"seq": [first, third], "note": " fine ", "next": "/audit/?actor=anna"}
    response = auditor.post(reverse("audit-review"), form, follow=True)
    assert response.redirect_chain == [("/audit/?actor=anna", 302)]
    assert "2 entries marked as reviewed." in response.content.decode()
    assert set(Review.objects.values_list("seq", "by", "note")) == {
        (first, "arno", "fine"),
        (third, "arno", "fine"),
    }
    page = auditor.get("/audit/?unreviewed=yes").context["page"]
    assert ([row.seq for row in page.rows], page.unreviewed) == ([second], "1")


def test_a_link_shows_what_is_not_reviewed_since_the_last_mark(auditor: Client) -> None:
    old, seen = (tell_at(make.NOW - timedelta(days=900)) for _ in range(2))
    reviews.review([seen], Actor("arno", "page"))
    new = tell(host="north-1").seq
    html = auditor.get("/audit/").content.decode()
    link = re.search(r'id="since-review" href="([^"]+)"', html)
    assert link is not None
    found = numbers(auditor, "/audit/" + unescape(link[1]))
    assert new in found
    assert old not in found


def test_all_that_is_shown_is_marked_but_for_ones_own(auditor: Client) -> None:
    tell(actor=Actor("arno", "page"))
    mine, _ = tell(actor=Actor("arno", "page")).seq, tell_many(2)
    html = auditor.get("/audit/").content.decode()
    assert f'name="seq" value="{mine}"' not in html
    assert f'name="shown" value="{mine}"' not in html
    auditor.post(reverse("audit-review"), {"which": "shown", "shown": [3, 4], "seq": [1]})
    assert set(Review.objects.values_list("seq", flat=True)) == {3, 4}


@pytest.mark.parametrize("seqs", [[], ["x", "-1", "9" * 30], ["99"]])
def test_nonsense_is_not_marked_and_leads_back(auditor: Client, seqs: list[str]) -> None:
    tell()
    form = {"seq": seqs, "next": "https://elsewhere.example/"}
    response = auditor.post(reverse("audit-review"), form, follow=True)
    assert response.redirect_chain == [("/audit/", 302)]
    assert "Nothing was marked." in response.content.decode()
    assert Review.objects.count() == 0


def test_what_one_has_reviewed_is_not_offered_again(auditor: Client) -> None:
    done, left = tell_many(2)
    reviews.review([done], Actor("arno", "page"))
    html = auditor.get("/audit/").content.decode()
    assert (f'id="pick-{done}"' in html, f'id="pick-{left}"' in html) == (False, True)
    pages = [auditor.get(f"/audit/{seq}/").content.decode() for seq in (done, left)]
    assert ['id="review-go"' in page for page in pages] == [False, True]


def test_only_auditors_review(
    sign_in: Callable[..., Client], operator: Client, admin: Client
) -> None:
    seq = tell().seq
    for client in (operator, admin):
        assert client.post(reverse("audit-review"), {"seq": [seq]}).status_code == 403
        assert "review-form" not in client.get("/audit/").content.decode()
    both = sign_in("operators", "both")
    both_user = User.objects.get(username="both")
    both_user.groups.add(*User.objects.get(username="olga").groups.model.objects.all())
    own = tell(actor=Actor("both", "page")).seq
    assert both.post(reverse("audit-review"), {"seq": [own]}).status_code == 302
    assert Review.objects.count() == 0  # a switch of their own stays for somebody else
    both.post(reverse("audit-review"), {"seq": [seq]})
    assert Review.objects.get().by == "both"


PAGES = ("/audit/", "/audit/1/", "/audit/people/anna/", "/audit/hosts/north-1/", "/audit/when/")


def test_all_staff_read_and_nobody_else(
    sign_in: Callable[..., Client], auditor: Client, operator: Client, admin: Client
) -> None:
    tell(host="north-1")
    for path in PAGES:
        for client in (auditor, operator, admin):
            assert client.get(path).status_code == 200, path
        assert Client().get(path).status_code == 302
        assert sign_in("", f"guest{PAGES.index(path)}").get(path).status_code == 403


def test_an_auditor_switches_nothing(auditor: Client) -> None:
    host = make.host("north-1")
    assert auditor.post("/switch", {"host": host.name, "plan": "x"}).status_code == 403
    assert not AuditEntry.objects.filter(kind__startswith="switch.").exists()


def test_who_is_an_operator_too_switches_nothing_as_an_auditor(auditor: Client) -> None:
    host = make.host("north-1")
    operators, _ = Group.objects.get_or_create(name=OPERATORS)
    User.objects.get(username="arno").groups.add(operators)
    assert auditor.post("/switch", {"host": host.name, "plan": "x"}).status_code == 403


def test_a_page_is_made_for_paper(auditor: Client) -> None:
    tell(host="north-1")
    response = auditor.get("/audit/?host=north-1")
    html = response.content.decode()
    assert '<p class="print-head">' in html
    assert "Switchboard, audit trail. Filter: host north-1. Printed" in text_of(response)
