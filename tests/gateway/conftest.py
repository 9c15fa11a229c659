from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.gateway.asgi import app
from switcher.models import Host
from switcher.ollama import relay
from switcher.records import Actor, refused_keys
from switcher.records.config import save_host
from tests.until import PATIENCE_S

TestServer.__test__ = False  # type: ignore[attr-defined]
ADMIN = Actor("anna", "page")
HELLO = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def no_refused_keys() -> Iterator[None]:
    """Forget which refused keys were recorded: a process records each only now and then."""
    refused_keys.throttle.reset()
    yield
    refused_keys.throttle.reset()


class Exchange:
    """One request to the gateway, and what came back so far."""

    def __init__(
        self,
        method: str,
        target: str,
        body: bytes,
        headers: dict[str, str],
        client: str = "127.0.0.1",
    ) -> None:
        path, _, query = target.partition("?")
        names = {"host": "localhost:8000", **{n.lower(): v for n, v in headers.items()}}
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "scheme": "http",
            "headers": [(n.lower().encode(), v.encode()) for n, v in names.items()],
            "client": (client, 50000),
        }
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "http.request", "body": body})
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.task = asyncio.create_task(app(self.scope, self.incoming.get, self.sent.put))

    async def next_part(self) -> bytes:
        """Return the next part of the body; read the head before it if that has not come yet."""
        async with asyncio.timeout(PATIENCE_S):
            message = await self.sent.get()
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {n.decode(): v.decode() for n, v in message["headers"]}
                message = await self.sent.get()
        self.body += message["body"]
        self.ended = not message.get("more_body", False)
        return message["body"]

    async def end(self) -> Exchange:
        """Read everything to the end."""
        async with asyncio.timeout(PATIENCE_S):
            await self.task
        while not self.sent.empty():
            await self.next_part()
        return self

    def disconnect(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """Return the data of each server-sent event; `DONE` for the terminator."""
        texts = [t.removeprefix("data: ") for t in self.body.decode().split("\n\n") if t]
        return ["DONE" if t == "[DONE]" else json.loads(t) for t in texts]


def ask(
    body: Any = None,
    target: str = "/chat/completions",
    method: str = "POST",
    client: str = "127.0.0.1",
    **headers: str,
) -> Exchange:
    """Send a request. A body that is not bytes is written as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(HELLO if body is None else body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Exchange(method, target, raw, names, client)


def listed(name: str, **more: Any) -> dict[str, Any]:
    """Return a row of `/api/tags`."""
    return {"name": f"{name}:latest", "digest": f"sha-{name}", "size": 1000} | more


class Upstream:
    """A host. `answer` handles its requests, `received` lists their path, body and headers."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes, dict[str, str]]] = []
        self.answer: Handler = self.completion
        self.client_left = asyncio.Event()
        self.url = ""

    async def completion(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/api/tags":
            return web.json_response({"models": []})
        return web.json_response({"object": "chat.completion", "choices": []})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.received.append((request.path, await request.read(), dict(request.headers)))
        return await self.answer(request)

    def body(self, index: int = -1) -> Any:
        return json.loads(self.received[index][1])


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """Run a real server on loopback."""
    made = Upstream()
    site = web.Application(client_max_size=64_000_000)
    site.router.add_route("*", "/{path:.*}", made.handle)
    server = TestServer(site)
    await server.start_server(shutdown_timeout=0)
    made.url = str(server.make_url("")).rstrip("/")
    yield made
    await relay.close()
    await server.close()


@pytest_asyncio.fixture
async def host(transactional_db: None, settings: Any, upstream: Upstream) -> Host:
    """The default host, at the upstream, with mid-a active; the gateway is open to this machine."""
    settings.SWITCHER_OPEN_GATEWAY = True
    return await in_thread(add_host, "tower", upstream.url, "mid-a")


def add_host(name: str, url: str, tag: str = "") -> Host:
    """Add a host. Several hosts of a test may share one server, which nobody could save."""
    host = save_host(Host(name=name, base_url=f"http://{name}.test:11434"), ADMIN)
    Host.objects.filter(pk=host.pk).update(base_url=url)
    host.refresh_from_db()
    if tag:
        set_active(host, Spec("", tag))
    return host


def set_active(host: Host, spec: Spec) -> None:
    Host.objects.filter(pk=host.pk).update(active_tag=spec.tag, active_spec=spec.to_json())
