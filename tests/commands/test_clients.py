"""`hosts clients`, `policy`, `name`, `unname`, and the usage that `keys` shows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from switcher.domain.specs import Spec
from switcher.models import AuditEntry, Host
from switcher.queries.gates import routes
from switcher.records import keys
from switcher.records.keys import NewKey
from switcher.records.usage import UsageBatch, UsageBucket, UsageCounts, add_usage
from tests import make
from tests.commands.conftest import ADMIN, run


@pytest.fixture
def tower(db: None) -> Host:
    host = make.host("tower", make.seen(make.resident("mid-a:latest")))
    spec = Spec("", "mid-a").to_json()
    Host.objects.update(active_tag="mid-a", active_digest="sha-a", active_spec=spec)
    make.profile("tiny-a", name="small")
    return host


def served() -> list[tuple[str, str]]:
    return routes().by_name["tower"].served_names


def test_a_name_is_set_and_removed(tower: Host) -> None:
    ran = run("hosts", "name", "tower", "quick:latest", "small")
    assert (ran.code, ran.out.splitlines()[0]) == (
        0, "Clients of tower that name quick get profile small."
    )  # fmt: skip
    assert "Not yet: the policy is active." in ran.out
    assert served() == [("mid-a", "mid-a")]
    ran = run("hosts", "policy", "tower", "strict")
    assert ran.out.startswith("Only the names below")
    assert served() == [("mid-a", "mid-a"), ("quick", "tiny-a")]
    assert run("hosts", "unname", "tower", "quick").code == 0
    assert served() == [("mid-a", "mid-a")]
    (actor,) = set(AuditEntry.objects.filter(kind="host.names").values_list("actor", flat=True))
    assert actor


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("name", "tower", "no spaces", "small"), 1, "cannot be a name"),
        (("name", "tower", "quick", "gone"), 1, "no profile named 'gone'"),
        (("name", "nowhere", "quick", "small"), 1, "no host named 'nowhere'"),
        (("unname", "tower", "quick"), 1, "tower has no name quick"),
        (("clients", "nowhere"), 1, "no host named"),
    ],
)
def test_a_mistake_is_explained(tower: Host, words: tuple[str, ...], code: int, text: str) -> None:
    ran = run("hosts", *words)
    assert ran.code == code
    assert text in ran.err


def test_what_a_client_gets_by_each_name(tower: Host) -> None:
    run("hosts", "name", "tower", "quick", "small")
    run("hosts", "policy", "tower", "strict")
    lines = run("hosts", "clients", "tower").out.splitlines()
    assert lines[0].startswith("tower, policy strict.")
    assert lines[2].split() == ["mid-a", "mid-a", "Loaded"]
    assert lines[3].split()[:3] == ["quick", "tiny-a", "small"]
    assert lines[4].startswith("anything else")
    assert lines[4].endswith("404: not served here")
    for words in (("--json", "clients", "tower"), ("clients", "--json", "tower")):
        printed: Any = json.loads(run("hosts", *words).out)
        assert (printed["policy"], printed["names"]) == ("strict", {"quick": "small"})
        assert [row["model"] for row in printed["clients"]] == ["mid-a", "tiny-a", ""]


def test_keys_are_listed_with_their_usage(tower: Host) -> None:
    key, _ = keys.make_key(NewKey("bot"), ADMIN)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    counts = UsageCounts(requests=3, errors=1, waits=2, wait_ms=900, tokens_in=40, tokens_out=50)
    rows = [
        (UsageBucket(key, "tower", "mid-a", hour), counts),
        (UsageBucket(key, "den", "mid-b", hour), UsageCounts(requests=4)),
        (UsageBucket(None, "tower", "mid-a", hour), UsageCounts(requests=9)),
    ]
    add_usage(UsageBatch(rows, {key}), hour)
    assert run("keys").out.splitlines()[1].split()[-4:] == ["7", "1", "2", "90"]
    (printed,) = json.loads(run("keys", "--json").out)
    assert printed["usage"]["requests"] == 7
    lines = [line.split() for line in run("keys", "usage").out.splitlines()]
    assert lines[1] == ["no", "key", "tower", "mid-a", "9", "0", "0", "0", "0"]
    assert lines[2] == ["bot", "den", "mid-b", "4", "0", "0", "0", "0"]
    assert lines[3] == ["bot", "tower", "mid-a", "3", "1", "2", "40", "50"]
    assert len(run("keys", "usage", "--host", "den").out.splitlines()) == 2
    printed = json.loads(run("keys", "usage", "--json").out)
    assert [row["key_name"] for row in printed] == [None, "bot", "bot"]
    assert run("keys", "usage", "--days", "0").code == 1
