"""API keys: what they open, their limits, and their usage."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest, NotFound
from switcher.domain.specs import Spec
from switcher.gateway import route_cache
from switcher.gateway.errors import GatewayError
from switcher.gateway.meter import Meter, RequestUsage
from switcher.models import ApiKey, AuditEntry, Host, Usage
from switcher.queries import keys as queries
from switcher.queries.keys import KeyFacts
from switcher.records import keys
from switcher.records.keys import NewKey
from tests import make
from tests.clocks import FakeClock
from tests.gateway.conftest import ADMIN, Exchange, Upstream, add_host, ask, set_active
from tests.until import until_async


def make_key(clock: Clock = system, **facts: Any) -> str:
    return keys.make_key(NewKey("bot", **facts), ADMIN, clock)[1]


def with_key(token: str, **values: Any) -> Exchange:
    return ask(client="192.0.2.7", Authorization=f"Bearer {token}", **values)


async def until_refused(token: str) -> None:
    async def is_refused() -> bool:
        return (await with_key(token).end()).status == 401

    await until_async(is_refused)


async def test_a_key_works_from_anywhere(host: Host, upstream: Upstream) -> None:
    token = await in_thread(make_key)
    assert (await ask(client="192.0.2.7").end()).status == 401
    assert (await with_key(token).end()).status == 200
    reply = await ask(client="192.0.2.7", X_Api_Key=token).end()
    assert reply.status == 200
    assert all("Authorization" not in headers for _, _, headers in upstream.received)


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


PLACES: list[Callable[[str], dict[str, str]]] = [
    lambda key: {"Authorization": f"Bearer {key}"},
    lambda key: {"Authorization": f"bearer  {key} "},
    lambda key: {"Authorization": key},
    lambda key: basic(f"anyone:{key}"),
    lambda key: basic(f"{key}:"),
    lambda key: {"X_Api_Key": key},
    lambda key: {"Api_Key": key},
    lambda key: {"target": f"/v1/chat/completions?a=b&key={key}"},
    lambda key: {"Authorization": "Bearer ollama", "X_Api_Key": key},
    lambda key: {"Authorization": "Bearer ollama", "target": f"/v1/chat/completions?key={key}"},
    lambda key: {"Authorization": "Basic %%%", "X_Api_Key": "none", "Api_Key": key},
    lambda key: basic("user:password") | {"X_Api_Key": key},
]


@pytest.mark.parametrize("place", range(len(PLACES)))
async def test_a_key_may_stand_wherever_clients_put_it(
    host: Host, upstream: Upstream, place: int
) -> None:
    token = await in_thread(make_key)
    where: dict[str, Any] = PLACES[place](token)
    assert (await ask(client="192.0.2.7", **where).end()).status == 200
    assert token not in str(upstream.received)
    wrong: dict[str, Any] = PLACES[place]("sb-wrong")
    assert (await ask(client="192.0.2.7", **wrong).end()).status == 401


async def test_a_token_that_is_no_key_of_ours_is_ignored(host: Host, upstream: Upstream) -> None:
    """Clients send some token even to servers that need none."""
    assert (await ask(Authorization="Bearer ollama").end()).status == 200
    assert (await with_key("ollama").end()).status == 401


async def test_a_wrong_expired_or_turned_off_key_is_refused(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    earlier = FakeClock(now - timedelta(minutes=1))  # however long it takes to get there
    expiring = await in_thread(make_key, earlier, expires_at=now + timedelta(seconds=0.2))
    token = await in_thread(make_key)
    assert (await with_key(token + "x").end()).json()["error"]["code"] == "invalid_api_key"
    await until_refused(expiring)
    key = await in_thread(ApiKey.objects.get, prefix=token[:10])
    await in_thread(keys.turn_off, key.pk, ADMIN)
    await until_refused(token)


async def test_a_key_works_for_its_hosts_and_profiles_only(host: Host, upstream: Upstream) -> None:
    await in_thread(add_host, "den", f"{upstream.url}/den", "mid-b")
    den = await in_thread(make_key, hosts=("den",))
    reply = await with_key(den).end()
    assert reply.headers["x-switchboard-model"] == "mid-b", "a key for one host need not name it"
    assert (await with_key(den, target="/v1/chat/completions?host=tower").end()).status == 403
    await in_thread(make.profile, "tiny-a")
    await in_thread(set_active, host, Spec("mid-a", "mid-a"))
    narrow = await in_thread(make_key, profiles=("tiny-a",))
    reply = await with_key(narrow).end()
    assert (reply.status, reply.json()["error"]["code"]) == (403, "not_allowed")


MANAGE = [("/api/pull", "POST"), ("/api/delete", "DELETE"), ("/api/copy", "POST")]


@pytest.mark.parametrize(("path", "method"), MANAGE)
async def test_changing_a_host_needs_a_key_with_the_scope(
    host: Host, upstream: Upstream, path: str, method: str
) -> None:
    plain, manager = await in_thread(make_key), await in_thread(make_key, manage=True)
    body = {"model": "x"}
    assert (await ask(body, target=path, method=method).end()).status == 401
    refused = await with_key(plain, body=body, target=path, method=method).end()
    assert (refused.status, type(refused.json()["error"])) == (403, str)
    assert not upstream.received
    assert (await with_key(manager, body=body, target=path, method=method).end()).status == 200
    assert (upstream.received[0][0], upstream.body()) == (path, body)


async def test_requests_a_minute_and_at_once_are_limited(host: Host, upstream: Upstream) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return web.json_response({})

    upstream.answer = answer
    token = await in_thread(make_key, at_once=1, requests_a_minute=2)
    first = with_key(token)
    await until_async(lambda: upstream.received)
    reply = await with_key(token).end()
    assert (reply.status, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(reply.headers["retry-after"]) >= 1
    go_on.set()
    assert (await first.end()).status == 200
    assert (await with_key(token).end()).status == 200
    reply = await with_key(token).end()
    assert (reply.status, "per minute" in reply.json()["error"]["message"]) == (429, True)


async def test_usage_is_counted_by_key_and_model(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if len(upstream.received) == 2:
            return web.json_response({"error": "no"}, status=500)
        return web.json_response({"usage": {"prompt_tokens": 3, "completion_tokens": 4}})

    upstream.answer = answer
    token = await in_thread(make_key)
    for _ in range(2):
        await with_key(token).end()
    await ask().end()
    await route_cache.close_current()
    rows = await in_thread(lambda: list(Usage.objects.order_by("-key").values()))
    counts = [(r["requests"], r["errors"], r["tokens_in"], r["tokens_out"]) for r in rows]
    assert sorted(counts) == [(1, 0, 3, 4), (2, 1, 3, 4)]
    assert {r["model"] for r in rows} == {"mid-a"}
    assert (await in_thread(ApiKey.objects.get)).last_used_at is not None
    listed = await in_thread(queries.usage)
    assert [r.requests for r in listed] == [2, 1]


TOKENS: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("/api/embed", {"embeddings": [[0.5] * 2000], "prompt_eval_count": 5}, (5, 0)),
    ("/v1/embeddings", {"data": [], "usage": {"prompt_tokens": 6, "total_tokens": 6}}, (6, 0)),
    ("/api/chat", {"done": True, "prompt_eval_count": 7, "eval_count": 8}, (7, 8)),
    ("/api/generate", {"done": True, "prompt_eval_count": 7, "eval_count": 8}, (7, 8)),
    ("/v1/completions", {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}, (1, 2)),
    ("/v1/responses", {"usage": {"input_tokens": 3, "output_tokens": 4}}, (3, 4)),
    # Before something long, such as `logprobs`.
    ("/api/chat", {"prompt_eval_count": 7, "eval_count": 8, "logprobs": [0] * 2000}, (7, 8)),
    # What the model writes about tokens does not count.
    ("/api/chat", {"message": {"content": '"eval_count": 99'}}, (0, 0)),
]


@pytest.mark.parametrize(("path", "answered", "tokens"), TOKENS)
async def test_tokens_are_counted_on_every_path(
    host: Host, upstream: Upstream, path: str, answered: dict[str, Any], tokens: tuple[int, int]
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(answered)

    upstream.answer = answer
    assert (await ask({"model": "x", "stream": False}, target=path).end()).status == 200
    await route_cache.close_current()
    row = await in_thread(Usage.objects.get)
    assert (row.tokens_in, row.tokens_out) == tokens


@pytest.mark.django_db
class TestRecords:
    def test_only_the_digest_is_stored_and_an_entry_is_written(self) -> None:
        key_id, token = keys.make_key(NewKey("bot", manage=True), ADMIN)
        row = ApiKey.objects.get(pk=key_id)
        assert token.startswith("sb-")
        assert len(token) >= 46
        assert token not in str(vars(row))
        assert row.sha256 == keys.digest_of(token)
        entry = AuditEntry.objects.get(kind="key.made")
        assert token not in entry.body
        assert row.sha256 not in entry.body

    def test_an_impossible_key_is_refused(self) -> None:
        clock = FakeClock()
        for new, error in (
            (NewKey(" "), BadRequest),
            (NewKey("x" * 61), BadRequest),
            (NewKey("bot", expires_at=clock.now()), BadRequest),
            (NewKey("bot", hosts=("nowhere",)), NotFound),
            (NewKey("bot", profiles=("none",)), NotFound),
        ):
            with pytest.raises(error):
                keys.make_key(new, ADMIN, clock)
        assert not ApiKey.objects.exists()


def facts(**values: Any) -> KeyFacts:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    blank = KeyFacts(
        *(
            7,
            "bot",
            "sb-",
            True,
            (),
            True,
            (),
            False,
            False,
            None,
            None,
            now,
            "anna",
            None,
            None,
            None,
        )
    )
    return replace(blank, **values)


def test_each_process_allows_its_share_of_a_limit() -> None:
    meter = Meter()
    meter.processes = 2
    key = facts(requests_a_minute=4)
    for moment in (0.0, 1.0):
        meter.enter(key, moment)
    with pytest.raises(GatewayError) as refused:
        meter.enter(key, 2.0)
    assert ("retry-after", "58") in refused.value.headers
    meter.enter(key, 60.5)


def test_a_batch_that_was_not_written_is_not_lost() -> None:
    meter, hour = Meter(), datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
    for _ in range(2):
        meter.leave(RequestUsage(None, "tower", "mid-a", waited_s=0.2), hour)
        meter.put_back(meter.take())
    ((where, counts),) = meter.take().rows
    assert (where.hour.minute, counts.requests, counts.waits, counts.wait_ms) == (0, 2, 2, 400)
