"""Calls that change a host: who may make them, and that bodies of any size are relayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from switcher.concurrency.threads import in_thread
from switcher.gateway import route_cache
from switcher.models import ApiKey, Host
from switcher.ollama import relay
from tests.gateway.conftest import Exchange, Upstream, add_host, ask
from tests.gateway.test_api_styles import NDJSON
from tests.gateway.test_keys import make_key, with_key
from tests.until import PATIENCE_S

DIGEST = "sha256:" + "ab" * 32
CALLS = [
    ("/api/pull", "POST"),
    ("/api/push", "POST"),
    ("/api/create", "POST"),
    ("/api/copy", "POST"),
    ("/api/delete", "DELETE"),
    (f"/api/blobs/{DIGEST}", "POST"),
    (f"/api/blobs/{DIGEST}", "HEAD"),
]


@pytest.mark.parametrize(("path", "method"), CALLS)
async def test_each_call_needs_the_scope(
    host: Host, upstream: Upstream, path: str, method: str
) -> None:
    plain, manager = await in_thread(make_key), await in_thread(make_key, manage=True)
    without = await ask({"model": "x"}, target=path, method=method).end()
    assert without.status == 401, "not even from this machine"
    refused = await with_key(plain, body={"model": "x"}, target=path, method=method).end()
    assert (refused.status, "may not" in refused.json()["error"]) == (403, True)
    assert not upstream.received
    done = await with_key(manager, body={"model": "x"}, target=path, method=method).end()
    assert done.status == 200
    assert upstream.received[0][0] == path


@pytest.mark.parametrize(("path", "method"), CALLS[:-2])
async def test_a_wrong_method_is_refused_in_ollamas_style(
    host: Host, upstream: Upstream, path: str, method: str
) -> None:
    reply = await ask({}, target=path, method="PUT").end()
    assert (reply.status, reply.headers["allow"]) == (405, method)
    assert isinstance(reply.json()["error"], str)


@pytest.mark.parametrize(
    "path",
    [
        "/api/blobs/../generate",
        "/api/blobs/../../v1/chat/completions",
        f"/api/blobs/{DIGEST}/../../generate",
        "/api/blobs/",
        "/api/blobs/sha256:short",
    ],
)
async def test_the_path_of_a_blob_leads_nowhere_else(
    host: Host, upstream: Upstream, path: str
) -> None:
    """Not even a key with the scope gets past the policy and the gate."""
    manager = await in_thread(make_key, manage=True)
    reply = await with_key(manager, body={"model": "mid-b", "keep_alive": 0}, target=path).end()
    assert reply.status == 404
    assert not upstream.received


@pytest.mark.parametrize("path", ["/api/pull", "/api/push"])
async def test_progress_is_relayed_line_by_line(host: Host, upstream: Upstream, path: str) -> None:
    go_on = asyncio.Event()
    lines = b'{"status":"pulling manifest"}\n', b'{"status":"success"}\n'

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=NDJSON)
        await response.prepare(request)
        await response.write(lines[0])
        await go_on.wait()
        await response.write(lines[1])
        return response

    upstream.answer = answer
    token = await in_thread(make_key, manage=True)
    reply = with_key(token, body={"model": "x"}, target=path)
    assert await reply.next_part() == lines[0]
    assert reply.headers["content-type"] == "application/x-ndjson"
    go_on.set()
    assert (await reply.end()).body == b"".join(lines)


async def test_a_disconnect_ends_a_pull(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=NDJSON)
        await response.prepare(request)
        await response.write(b'{"status":"pulling manifest"}\n')
        try:
            await asyncio.Event().wait()
        finally:
            upstream.client_left.set()
        return response

    upstream.answer = answer
    token = await in_thread(make_key, manage=True)
    reply = with_key(token, body={"model": "x"}, target="/api/pull")
    await reply.next_part()
    reply.disconnect()
    async with asyncio.timeout(PATIENCE_S):
        await reply.task
        await upstream.client_left.wait()


async def test_a_pull_that_breaks_ends_with_an_error_line(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=NDJSON)
        await response.prepare(request)
        await response.write(b'{"status":"pulling manifest"}\n')
        assert request.transport is not None
        request.transport.close()
        return response

    upstream.answer = answer
    token = await in_thread(make_key, manage=True)
    reply = await with_key(token, body={"model": "x"}, target="/api/pull").end()
    assert "broke off" in json.loads(reply.body.splitlines()[-1])["error"]


class Upload(Exchange):
    """A request whose body comes in parts, given by the test."""

    def __init__(self, token: str) -> None:
        names = {"Authorization": f"Bearer {token}"}
        super().__init__("POST", f"/api/blobs/{DIGEST}", b"", names)
        self.incoming.get_nowait()

    def give(self, part: bytes, more: bool = True) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": part, "more_body": more})


class Store:
    """A host that takes a blob, and counts its bytes."""

    def __init__(self) -> None:
        self.came = 0
        self.grown = asyncio.Condition()
        self.broke = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            async for part in request.content.iter_any():
                async with self.grown:
                    self.came += len(part)
                    self.grown.notify_all()
        except (OSError, asyncio.CancelledError):
            self.broke.set()
            raise
        return web.Response(status=201)

    async def has(self, size: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self.grown:
            await self.grown.wait_for(lambda: self.came >= size)


@pytest_asyncio.fixture
async def store(transactional_db: None) -> AsyncIterator[Store]:
    """The default host. The upstream of other tests reads a whole body before it answers."""
    made = Store()
    site = web.Application(client_max_size=2**40)
    site.router.add_route("POST", "/{path:.*}", made.handle)
    server = TestServer(site)
    await server.start_server(shutdown_timeout=0)
    await in_thread(add_host, "tower", str(server.make_url("")).rstrip("/"), "mid-a")
    yield made
    await relay.close()
    await server.close()


async def test_a_blob_is_relayed_part_by_part(store: Store) -> None:
    """Each part arrives before the next one is given, so nothing is buffered on the way."""
    sending, part = Upload(await in_thread(make_key, manage=True)), b"x" * 1_000_000
    for number in range(1, 31):  # more MB than any other body may have
        sending.give(part)
        await store.has(number * len(part))
    sending.give(b"", more=False)
    assert (await sending.end()).status == 201
    assert store.came == 30_000_000


async def test_a_disconnect_ends_an_upload(store: Store) -> None:
    sending = Upload(await in_thread(make_key, manage=True))
    sending.give(b"x")
    await store.has(1)
    sending.disconnect()
    async with asyncio.timeout(PATIENCE_S):
        await sending.task
        await store.broke.wait()


async def test_a_key_that_only_manages_counts_as_used(host: Host, upstream: Upstream) -> None:
    token = await in_thread(make_key, manage=True)
    await with_key(token, body={"model": "x"}, target="/api/pull").end()
    await route_cache.close_current()
    assert (await in_thread(ApiKey.objects.get)).last_used_at is not None


async def test_limits_apply_to_lists_and_changes_too(host: Host, upstream: Upstream) -> None:
    token = await in_thread(make_key, manage=True, requests_a_minute=2)
    assert (await with_key(token, target="/api/ps", method="GET").end()).status == 200
    assert (await with_key(token, body={}, target="/api/pull").end()).status == 200
    reply = await with_key(token, body={"model": "x"}, target="/api/show").end()
    assert (reply.status, type(reply.json()["error"])) == (429, str)
    assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("path", "method"), [("/api/pull", "POST"), ("/api/version", "GET")])
async def test_the_answer_of_another_kind_of_service_is_not_relayed(
    host: Host, upstream: Upstream, path: str, method: str
) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>s3cret</html>", content_type="text/html")

    upstream.answer = page
    manager = await in_thread(make_key, manage=True)
    reply = await with_key(manager, body={"model": "x"}, target=path, method=method).end()
    assert reply.status == 502
    assert b"s3cret" not in reply.body
    assert "something that is not JSON" in reply.json()["error"]


@pytest.mark.parametrize(
    ("path", "method", "member"),
    [
        ("/api/copy", "POST", "destination"),
        ("/api/copy", "POST", "Source"),
        ("/api/pull", "POST", "model"),
        ("/api/create", "POST", "name"),
        ("/api/delete", "DELETE", "model"),
    ],
)
@pytest.mark.parametrize("name", ["switchboard-holds/a:1", "mid-a", " Switchboard-Holds/a "])
async def test_no_call_touches_a_model_copy(
    host: Host, upstream: Upstream, path: str, method: str, member: str, name: str
) -> None:
    """Requests reach the verified content by the copy's name."""
    manager = await in_thread(make_key, manage=True)
    reply = await with_key(manager, body={member: name}, target=path, method=method).end()
    is_copy = "holds" in name.lower()
    assert reply.status == (403 if is_copy else 200)
    assert len(upstream.received) == (0 if is_copy else 1)
