"""The page that shows and sets what clients of a host get."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client

from switcher.domain.specs import Spec
from switcher.models import AuditEntry, GatewayName, Host
from switcher.queries.gates import routes
from switcher.records.usage import UsageBatch, UsageBucket, UsageCounts, add_usage
from tests import make
from tests.panel.test_board import text_of

PATH = "/hosts/north-1/clients"


@pytest.fixture
def host(db: None) -> Host:
    """Return a host with mid-a active and loaded; tiny-a and an embedding model are on its disk."""
    on_disk = (
        make.installed("tiny-a:latest"),
        replace(make.installed("embed:latest"), capabilities=("embedding",)),
    )
    made = make.host("north-1", make.seen(make.resident("mid-a:latest"), on_disk=on_disk))
    Host.objects.update(
        active_tag="mid-a", active_digest="sha-a", active_spec=Spec("", "mid-a").to_json()
    )
    make.profile("tiny-a", name="small")
    make.profile("tiny-a", name="far", options={"num_ctx": 32768})
    make.profile("embed", name="vectors")
    return made


def save(client: Client, policy: str = "names", *pairs: tuple[str, str]) -> Any:
    names, profiles = [n for n, _ in pairs], [p for _, p in pairs]
    return client.post(PATH, {"policy": policy, "name": names, "profile": profiles})


def kept(host: Host) -> dict[str, str]:
    return dict(GatewayName.objects.filter(host=host).values_list("name", "profile__name"))


def test_the_page_shows_what_each_name_gets_and_how_to_try_it(admin: Client, host: Host) -> None:
    save(admin, "names", ("quick", "small"), ("vec", "vectors"))
    response = admin.get(PATH)
    row_html = r'<tr role="row">\s*<th role="rowheader".*?</tr>'
    rows = re.findall(row_html, response.content.decode(), flags=re.DOTALL)
    texts = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row)).strip() for row in rows]
    assert texts[0].startswith("mid-a mid-a – Loaded")
    assert texts[1].startswith("quick tiny-a small Not loaded")
    assert texts[3].startswith("anything else mid-a – Loaded")
    curl = html.unescape(texts[2])
    assert "/v1/embeddings \\ -H" in curl
    body = re.search(r"-d '(.*)'", curl)
    assert body is not None
    assert json.loads(body[1]) == {"model": "vec", "input": "Hello"}


def test_saving_changes_the_routes_of_the_gateway_and_leaves_entries(
    admin: Client, host: Host
) -> None:
    assert save(admin, "strict", ("quick:latest", "small")).status_code == 302
    assert kept(host) == {"quick": "small"}
    route = routes().by_name["north-1"]
    assert route.policy == "strict"
    assert route.served_names == [("mid-a", "mid-a"), ("quick", "tiny-a")]
    save(admin, "strict", ("quick", "small"), ("vec", "vectors"), ("", "small"))
    names = AuditEntry.objects.filter(kind="host.names").order_by("seq")
    assert [(e.facts["before"], e.facts["after"]) for e in names] == [
        ({"names": []}, {"names": ["quick = small"]}),
        ({"names": ["quick = small"]}, {"names": ["quick = small", "vec = vectors"]}),
    ]
    (policy,) = AuditEntry.objects.filter(kind="host.changed")
    assert policy.facts["before"] == {"gateway_policy": "active"}
    assert policy.facts["after"] == {"gateway_policy": "strict"}
    save(admin, "strict", ("quick", "small"), ("vec", "vectors"))
    assert AuditEntry.objects.filter(kind="host.names").count() == 2, "nothing was changed"


def test_the_page_warns_that_such_a_model_may_unload(admin: Client, host: Host) -> None:
    page = text_of(admin.get(PATH))
    assert "only as long as the server’s own keep-alive says" in page
    assert "loaded as the profile says" not in page


def test_strict_policy_answers_other_names_with_404(admin: Client, host: Host) -> None:
    save(admin, "strict", ("quick", "small"))
    assert "404: not served here" in text_of(admin.get(PATH))


def test_ignored_names_are_listed(admin: Client, host: Host) -> None:
    save(admin, "active", ("quick", "small"))
    assert "This policy ignores these names: quick" in text_of(admin.get(PATH))


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([("no spaces", "small")], "'no spaces' cannot be a name"),
        ([("quick", "")], "Choose a profile for quick"),
        ([("quick", "gone")], "There is no profile named"),
        ([("quick", "small"), ("quick", "vectors")], "quick is there twice"),
        ([("quick", "small"), ("quick:latest", "vectors")], "quick is there twice"),
        ([(f"n{n}", "small") for n in range(101)], "at most 100 names"),
        ([("quick", "small"), ("far", "far")], "far and quick both mean tiny-a on north-1"),
    ],
)
def test_an_invalid_form_is_explained_and_not_saved(
    admin: Client, host: Host, pairs: list[tuple[str, str]], text: str
) -> None:
    response = save(admin, "names", *pairs)
    assert response.status_code == 422
    assert text in html.unescape(text_of(response))
    assert pairs[0][0] in response.content.decode(), "the input is kept"
    assert kept(host) == {}
    assert Host.objects.get().gateway_policy == "active"


def test_an_unknown_policy_is_refused(admin: Client, host: Host) -> None:
    response = save(admin, "everything")
    assert (response.status_code, "Choose one of the three." in text_of(response)) == (422, True)


def test_staff_see_the_page_and_only_admins_change_it(
    operator: Client, auditor: Client, host: Host
) -> None:
    for client in (operator, auditor):
        page = client.get(PATH)
        assert page.status_code == 200
        assert "Save what clients get" not in text_of(page)
        assert save(client, "strict", ("quick", "small")).status_code == 403
    assert kept(host) == {}


def test_an_unknown_host_is_404(admin: Client, host: Host) -> None:
    assert admin.get("/hosts/nowhere/clients").status_code == 404


def test_a_profile_served_by_name_is_not_deleted(admin: Client, host: Host) -> None:
    save(admin, "names", ("quick", "small"))
    response = admin.post("/profiles/small/delete", follow=True)
    assert "small is in use on north-1" in text_of(response)
    assert kept(host) == {"quick": "small"}
    assert "It is in use on north-1" in text_of(admin.get("/profiles/small/edit"))


def test_the_host_page_links_there_and_shows_use(admin: Client, host: Host) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = [
        (UsageBucket(None, "north-1", "mid-a", hour), UsageCounts(requests=1234, errors=5)),
        (UsageBucket(None, "elsewhere", "mid-b", hour), UsageCounts(requests=7)),
    ]
    add_usage(UsageBatch(rows, set()), hour)
    page = admin.get("/hosts/north-1/")
    assert PATH in page.content.decode()
    assert "1,234" in text_of(page)
    assert "mid-b" not in text_of(page)


def test_the_page_shows_whose_prompts_are_cut(admin: Client, host: Host) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    assert "Prompts that were cut" not in text_of(admin.get(PATH))
    counts = UsageCounts(requests=9, cut_prompts=7, last_cut_at=datetime.now(UTC))
    add_usage(UsageBatch([(UsageBucket(None, "north-1", "mid-a", hour), counts)], set()), hour)
    shown = text_of(admin.get(PATH))
    assert "Prompts that were cut" in shown
    assert "no key mid-a 7 9" in shown
