"""Calls that change a host: who may, and that bodies and progress of any size pass as they come."""

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
async def test_each_takes_the_scope(host: Host, upstream: Upstream, path: str, method: str) -> None:
    plain, manager = await in_thread(make_key), await in_thread(make_key, manage=True)
    without = await ask({"model": "x"}, target=path, method=method).end()
    assert without.status == 401, "not even from this machine"
    refused = await with_key(plain, body={"model": "x"}, target=path, method=method).end()
    assert (refused.status, "may not" in refused.json()["error"]) == (403, True)
    assert not upstream.asked
    done = await with_key(manager, body={"model": "x"}, target=path, method=method).end()
    assert done.status == 200
    assert upstream.asked[0][0] == path


@pytest.mark.parametrize(("path", "method"), CALLS[:-2])
async def test_the_wrong_method_is_refused_in_ollamas_shape(
    host: Host, upstream: Upstream, path: str, method: str
) -> None:
    got = await ask({}, target=path, method="PUT").end()
    assert (got.status, got.headers["allow"]) == (405, method)
    assert isinstance(got.json()["error"], str)


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
async def test_the_address_of_a_file_leads_nowhere_else(
    host: Host, upstream: Upstream, path: str
) -> None:
    """There is no way past the policy and the gate, not for a key that may manage either."""
    manager = await in_thread(make_key, manage=True)
    got = await with_key(manager, body={"model": "mid-b", "keep_alive": 0}, target=path).end()
    assert got.status == 404
    assert not upstream.asked


@pytest.mark.parametrize("path", ["/api/pull", "/api/push"])
async def test_progress_comes_line_by_line(host: Host, upstream: Upstream, path: str) -> None:
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
    got = with_key(token, body={"model": "x"}, target=path)
    assert await got.next_part() == lines[0]
    assert got.headers["content-type"] == "application/x-ndjson"
    go_on.set()
    assert (await got.end()).body == b"".join(lines)


async def test_who_leaves_ends_a_pull(host: Host, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=NDJSON)
        await response.prepare(request)
        await response.write(b'{"status":"pulling manifest"}\n')
        try:
            await asyncio.Event().wait()
        finally:
            upstream.left.set()
        return response

    upstream.answer = answer
    token = await in_thread(make_key, manage=True)
    got = with_key(token, body={"model": "x"}, target="/api/pull")
    await got.next_part()
    got.leave()
    async with asyncio.timeout(10):
        await got.task
        await upstream.left.wait()


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
    got = await with_key(token, body={"model": "x"}, target="/api/pull").end()
    assert "broke off" in json.loads(got.body.splitlines()[-1])["error"]


class Upload(Exchange):
    """A request whose body comes in parts, when the test gives them."""

    def __init__(self, token: str) -> None:
        names = {"Authorization": f"Bearer {token}"}
        super().__init__("POST", f"/api/blobs/{DIGEST}", b"", names)
        self.incoming.get_nowait()

    def give(self, part: bytes, more: bool = True) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": part, "more_body": more})


class Store:
    """A host that takes a blob in and keeps only how much of it came."""

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
        async with asyncio.timeout(10), self.grown:
            await self.grown.wait_for(lambda: self.came >= size)


@pytest_asyncio.fixture
async def store(transactional_db: None) -> AsyncIterator[Store]:
    """The default host: the upstream of other tests reads a body whole before it answers."""
    made = Store()
    site = web.Application(client_max_size=2**40)
    site.router.add_route("POST", "/{path:.*}", made.handle)
    server = TestServer(site)
    await server.start_server(shutdown_timeout=0)
    await in_thread(add_host, "tower", str(server.make_url("")).rstrip("/"), "mid-a")
    yield made
    await relay.close()
    await server.close()


async def test_a_blob_passes_as_it_comes(store: Store) -> None:
    """Each part has arrived before the next one is given: it is kept nowhere on the way."""
    sending, part = Upload(await in_thread(make_key, manage=True)), b"x" * 1_000_000
    for number in range(1, 31):  # more than any other body may have
        sending.give(part)
        await store.has(number * len(part))
    sending.give(b"", more=False)
    assert (await sending.end()).status == 201
    assert store.came == 30_000_000


async def test_who_leaves_an_upload_ends_it(store: Store) -> None:
    sending = Upload(await in_thread(make_key, manage=True))
    sending.give(b"x")
    await store.has(1)
    sending.leave()
    async with asyncio.timeout(10):
        await sending.task
        await store.broke.wait()


async def test_a_key_that_only_manages_was_used(host: Host, upstream: Upstream) -> None:
    token = await in_thread(make_key, manage=True)
    await with_key(token, body={"model": "x"}, target="/api/pull").end()
    await route_cache.close_current()
    assert (await in_thread(ApiKey.objects.get)).last_used_at is not None


async def test_its_limits_hold_for_lists_and_changes_too(host: Host, upstream: Upstream) -> None:
    token = await in_thread(make_key, manage=True, requests_a_minute=2)
    assert (await with_key(token, target="/api/ps", method="GET").end()).status == 200
    assert (await with_key(token, body={}, target="/api/pull").end()).status == 200
    got = await with_key(token, body={"model": "x"}, target="/api/show").end()
    assert (got.status, type(got.json()["error"])) == (429, str)
    assert int(got.headers["retry-after"]) >= 1
