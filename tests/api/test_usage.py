from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from switcher.records import keys
from switcher.records.keys import NewKey
from switcher.records.usage import UsageBatch, UsageBucket, UsageCounts, add_usage
from tests.api.conftest import ADMIN


@pytest.fixture
def key(transactional_db: None) -> int:
    """A key that was used now and ten days ago, and one request without a key."""
    made, _ = keys.make_key(NewKey("bot"), ADMIN)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    counts = UsageCounts(requests=3, errors=1, waits=2, wait_ms=900, tokens_in=40, tokens_out=50)
    rows = [
        (UsageBucket(made, "tower", "mid-a", hour), counts),
        (UsageBucket(made, "tower", "mid-a", hour - timedelta(days=10)), UsageCounts(requests=100)),
        (UsageBucket(None, "den", "mid-b", hour), UsageCounts(requests=1)),
    ]
    add_usage(UsageBatch(rows, {made}), hour)
    return made


def test_usage_is_listed_by_key_host_and_model(auditor: Client, key: int) -> None:
    body = auditor.get("/ollama/usage").json()
    assert body["days"] == 7
    assert body["usage"][0] == {
        "key": key, "key_name": "bot", "host": "tower", "model": "mid-a", "requests": 3,
        "errors": 1, "waits": 2, "wait_ms": 900, "tokens_in": 40, "tokens_out": 50,
        "cut_prompts": 0, "fallbacks": 0, "last_cut_at": None,
    }  # fmt: skip
    assert (body["usage"][1]["key"], body["usage"][1]["requests"]) == (None, 1)


@pytest.mark.parametrize(
    ("query", "requests"),
    [("days=30", [103, 1]), ("host=den", [1]), ("host=nowhere", []), ("host=%00", [])],
)
def test_usage_is_filtered(auditor: Client, key: int, query: str, requests: list[int]) -> None:
    body = auditor.get(f"/ollama/usage?{query}").json()["usage"]
    assert [row["requests"] for row in body] == requests
    assert len(auditor.get(f"/ollama/usage?key={key}").json()["usage"]) == 1


def test_usage_is_for_staff_and_refuses_unknown_filters(
    client: Client, outsider: Client, auditor: Client, key: int
) -> None:
    assert client.get("/ollama/usage").status_code == 401
    assert outsider.get("/ollama/usage").status_code == 403
    assert auditor.get("/ollama/usage?day=1").status_code == 422
    assert auditor.get("/ollama/usage?days=0").status_code == 422
